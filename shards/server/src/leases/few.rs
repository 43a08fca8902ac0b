//! What sessions have of one object: hardly ever more than one of them has anything, and there are
//! very many objects, so it takes the memory of what is there and no more.

use cfs_types::SessionId;

/// A value for each of few sessions, in their order.
pub(super) struct Few<V>(Vec<(SessionId, V)>);

impl<V> Default for Few<V> {
    fn default() -> Self {
        Few(Vec::new())
    }
}

impl<V> Few<V> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &V)> {
        self.0.iter().map(|(session, value)| (*session, value))
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SessionId, &mut V)> {
        self.0.iter_mut().map(|(session, value)| (*session, value))
    }

    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.0.iter().map(|(session, _)| *session)
    }

    fn find(&self, session: SessionId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&session, |(known, _)| *known)
    }

    pub fn get(&self, session: SessionId) -> Option<&V> {
        self.find(session).ok().map(|at| &self.0[at].1)
    }

    pub fn get_or_insert(&mut self, session: SessionId, value: V) -> &mut V {
        let at = self.find(session).unwrap_or_else(|at| {
            self.0.reserve_exact(1);
            self.0.insert(at, (session, value));
            at
        });
        &mut self.0[at].1
    }

    pub fn remove(&mut self, session: SessionId) -> Option<V> {
        self.find(session).ok().map(|at| self.0.remove(at).1)
    }

    pub fn retain(&mut self, mut keep: impl FnMut(SessionId, &mut V) -> bool) {
        self.0.retain_mut(|(session, value)| keep(*session, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_session_has_one_value_in_order() {
        let mut few = Few::default();
        for n in [5, 1, 3, 5] {
            *few.get_or_insert(SessionId::new(n), 0) += n;
        }
        assert_eq!(few.sessions().map(SessionId::get).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(few.get(SessionId::new(5)), Some(&10));
        assert_eq!(few.remove(SessionId::new(1)), Some(1));
        few.retain(|session, _| session.get() != 5);
        assert_eq!(few.iter().map(|(_, v)| *v).collect::<Vec<_>>(), [3]);
    }
}
