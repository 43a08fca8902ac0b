//! Both sides prove that they know the shared secret, without sending it.
//!
//! The server's proof is HMAC-SHA256(secret, "server" | client nonce | server nonce), the
//! client's HMAC-SHA256(secret, "client" | server nonce | client nonce). Each covers the other
//! side's fresh random bytes, and the labels keep a proof from being reflected. Comparison takes
//! the same time whatever differs.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Random bytes of one side.
pub type Nonce = [u8; 32];
/// HMAC-SHA256 of the transcript.
pub type ProofBytes = [u8; 32];

/// Shortest secret, bytes: 128 bits.
pub const SECRET_BYTES_MIN: usize = 16;
/// Longest secret, bytes.
pub const SECRET_BYTES_MAX: usize = 1024;

/// The shared secret. Never printed.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// None where it is shorter than 16 or longer than 1024 bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()).then(|| Secret(bytes.to_vec()))
    }

    /// What the server sends.
    pub fn server_proof(&self, client: &Nonce, server: &Nonce) -> ProofBytes {
        self.mac(b"server", client, server).finalize().into_bytes().into()
    }
    /// What the client sends.
    pub fn client_proof(&self, client: &Nonce, server: &Nonce) -> ProofBytes {
        self.mac(b"client", server, client).finalize().into_bytes().into()
    }
    /// Whether the server knows the secret.
    pub fn verify_server(&self, client: &Nonce, server: &Nonce, proof: &ProofBytes) -> bool {
        self.mac(b"server", client, server).verify_slice(proof).is_ok()
    }
    /// Whether the client knows the secret.
    pub fn verify_client(&self, client: &Nonce, server: &Nonce, proof: &ProofBytes) -> bool {
        self.mac(b"client", server, client).verify_slice(proof).is_ok()
    }

    /// What goes with a request for the management of a server, to show that it comes from who knows the secret. The
    /// request says when it was made, or it could be sent again.
    pub fn request_proof(&self, request: &[u8]) -> ProofBytes {
        self.request_mac(request).finalize().into_bytes().into()
    }
    /// Whether a request comes from who knows the secret.
    pub fn verify_request(&self, request: &[u8], proof: &[u8]) -> bool {
        self.request_mac(request).verify_slice(proof).is_ok()
    }

    fn request_mac(&self, request: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(b"management");
        mac.update(request);
        mac
    }

    fn mac(&self, label: &[u8], first: &Nonce, second: &Nonce) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(label);
        mac.update(first);
        mac.update(second);
        mac
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_believed_from_who_knows_the_secret_and_as_it_was_made() {
        let secret = Secret::new(b"sixteen bytes or more").expect("long enough");
        let other = Secret::new(b"another sixteen bytes").expect("long enough");
        let proof = secret.request_proof(b"a request");
        assert!(secret.verify_request(b"a request", &proof));
        assert!(!secret.verify_request(b"a requesT", &proof) && !other.verify_request(b"a request", &proof));
        assert!(!secret.verify_request(b"a request", &proof[..31]) && !secret.verify_request(b"a request", &[]));
    }

    #[test]
    fn proofs_are_bound_to_secret_side_and_both_nonces() {
        let (secret, other) = (Secret::new(&[1; 32]).expect("long"), Secret::new(&[2; 32]).expect("long"));
        let (client, server) = ([3; 32], [4; 32]);
        let proof = secret.client_proof(&client, &server);
        assert!(secret.verify_client(&client, &server, &proof));
        assert!(!other.verify_client(&client, &server, &proof));
        assert!(!secret.verify_client(&server, &client, &proof));
        assert!(!secret.verify_client(&[5; 32], &server, &proof));
        assert!(!secret.verify_client(&client, &[5; 32], &proof));
        assert!(!secret.verify_server(&client, &server, &proof));
        assert!(!secret.verify_server(&server, &client, &proof), "reflected");
        let proof = secret.server_proof(&client, &server);
        assert!(secret.verify_server(&client, &server, &proof));
    }

    #[test]
    fn short_secrets_are_refused_and_none_is_printed() {
        assert!(Secret::new(b"hunter2").is_none());
        assert!(Secret::new(&[0; 1025]).is_none());
        let secret = Secret::new(b"sixteen bytes ok").expect("long enough");
        assert!(!format!("{secret:?}").contains("sixteen"));
    }
}
