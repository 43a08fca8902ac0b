//! Many futures at once, and not more than so many.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Runs the futures, at most `at_once` (one or more) of them at a time, begun in their order, and returns
/// their results in that order. Dropping it drops those that run. All run in the caller's task: for
/// waiting together, not for computing.
pub async fn gather<F: Future>(futures: impl IntoIterator<Item = F>, at_once: usize) -> Vec<F::Output> {
    let mut waiting = futures.into_iter().enumerate();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut results: Vec<Option<F::Output>> = Vec::new();
    poll_fn(|cx| {
        loop {
            let free = at_once.max(1) - running.len();
            for (number, future) in waiting.by_ref().take(free) {
                running.push((number, Box::pin(future)));
                results.push(None);
            }
            let before = running.len();
            running.retain_mut(|(number, future)| match future.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    results[*number] = Some(result);
                    false
                }
                Poll::Pending => true,
            });
            // Nothing was begun because nothing is left, or because all places are taken.
            if before == 0 {
                return Poll::Ready(());
            }
            if running.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    results.into_iter().map(|result| result.expect("each ran to its end")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Io, Promise, io};
    use std::cell::{Cell, RefCell};
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn results_come_in_order_and_no_more_run_than_allowed() {
        let (promises, ios): (Vec<Promise<u8>>, Vec<Io<u8>>) = (0..4).map(|_| io()).unzip();
        let mut promises: Vec<Option<Promise<u8>>> = promises.into_iter().map(Some).collect();
        let (running, most) = (Cell::new(0), Cell::new(0));
        let work = ios.into_iter().map(|io| async {
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            let result = io.await;
            running.set(running.get() - 1);
            result
        });
        let mut all = pin!(gather(work, 2));
        let mut poll = || all.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        for (number, value) in [(1, 11), (0, 10), (3, 13)] {
            assert!(poll().is_pending());
            promises[number].take().expect("once").complete(value);
        }
        assert!(poll().is_pending());
        promises[2].take().expect("once").complete(12);
        assert_eq!(poll(), Poll::Ready(vec![10, 11, 12, 13]));
        assert_eq!(most.get(), 2);
    }

    #[test]
    fn what_is_slow_holds_up_no_more_than_its_place() {
        let (begun, ended) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let (begun, ended, slow) = (&begun, &ended, &Cell::new(true));
        let one = |n: u32| async move {
            begun.borrow_mut().push(n);
            poll_fn(|_| if n == 0 && slow.get() { Poll::Pending } else { Poll::Ready(()) }).await;
            ended.borrow_mut().push(n);
        };
        let mut driver = pin!(gather((0..5).map(one), 2));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(driver.as_mut().poll(&mut cx).is_pending());
        assert_eq!((&begun.borrow()[..], &ended.borrow()[..]), (&[0, 1, 2, 3, 4][..], &[1, 2, 3, 4][..]));
        slow.set(false);
        assert!(driver.as_mut().poll(&mut cx).is_ready());
        assert_eq!(ended.borrow().last(), Some(&0));
    }

    #[test]
    fn nothing_is_over_at_once() {
        let mut none = pin!(gather(std::iter::empty::<Io<()>>(), 8));
        assert_eq!(none.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Vec::new()));
    }
}
