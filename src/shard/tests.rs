//! Shards on real threads and reactors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use glommio::timer::sleep;

use super::*;

#[test]
fn shards_work_rest_park_and_leave() {
    let answer = run(&Seats::anywhere(3), async |mut lead: Lead, _| {
        assert_eq!(lead.shards(), 3);
        for pause in [0, 0, 5, 0] {
            let sum = AtomicU64::new(0);
            lead.begin();
            for _ in 0..100 {
                lead.crew().each(10, |_, chunk| {
                    sum.fetch_add(chunk as u64, Ordering::Relaxed);
                });
                lead.breathe().await;
            }
            lead.rest();
            assert_eq!(sum.into_inner(), 4500);
            // Long enough for the mates to park.
            sleep(Duration::from_millis(pause)).await;
        }
        17
    });
    assert_eq!(answer.unwrap(), 17);
}

/// What the lead's reactor serves is served while it computes.
#[test]
fn others_on_the_reactor_run_during_a_long_step() {
    let served = run(&Seats::anywhere(1), async |mut lead: Lead, queues: Queues| {
        let (mut asked, mut asker) = glommio::net::UnixStream::pair().unwrap();
        let echo = async move {
            use futures_lite::{AsyncReadExt, AsyncWriteExt};
            let mut byte = [0];
            asked.read_exact(&mut byte).await.unwrap();
            asked.write_all(&byte).await.unwrap();
        };
        let _echo = glommio::spawn_local_into(echo, queues.serving).unwrap();
        let client = async move {
            use futures_lite::{AsyncReadExt, AsyncWriteExt};
            let mut byte = [7];
            asker.write_all(&byte).await.unwrap();
            asker.read_exact(&mut byte).await.unwrap();
            byte[0]
        };
        let mut client = glommio::spawn_local_into(client, queues.serving).unwrap().detach();
        lead.begin();
        // A step that goes on whatever the reactor does.
        let mut answer = None;
        for _ in 0..1000 {
            lead.crew().each(1, |_, _| std::thread::sleep(Duration::from_millis(2)));
            lead.breathe().await;
            answer = futures_lite::future::poll_once(&mut client).await;
            if answer.is_some() {
                break;
            }
        }
        lead.rest();
        answer.flatten()
    });
    assert_eq!(served.unwrap(), Some(7));
}

/// A step whose future is dropped half-way leaves shards that take part in the next one.
#[test]
fn a_step_can_be_given_up() {
    let sum = run(&Seats::anywhere(2), async |mut lead: Lead, _| {
        let sum = AtomicU64::new(0);
        for _ in 0..20 {
            lead.begin();
            lead.crew().each(4, |_, _| {
                sum.fetch_add(1, Ordering::Relaxed);
            });
        }
        sum.into_inner()
    });
    assert_eq!(sum.unwrap(), 80);
}
