//! The life of one connection: rest, exchange, rest, …

use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use futures_lite::future::poll_fn;
use hyper::body::Bytes;
use hyper::service::service_fn;

use super::exchange::{LATE, Refused, answer};
use super::watch::{Phase, Word};
use super::wire::{Link, Wire};
use super::{Handler, Server, watched};

/// Bytes that wake a connection which rests.
const FIRST: usize = 2 << 10;
/// Bytes that are thrown away at once.
const DISCARDED: usize = 16 << 10;

/// How exchanges came to an end.
enum Pause {
    /// Nothing goes on; hyper had read these bytes of what comes next.
    Rest(Bytes),
    /// hyper has said what there was to say.
    Over,
    /// The client is to be told why.
    Tell(Refused),
    /// It is not.
    Leave,
}

/// Serves a connection until it ends.
pub async fn live<H: Handler>(server: &Rc<Server<H>>, link: &Rc<Link>) {
    let mut ahead = Bytes::new();
    loop {
        if ahead.is_empty() {
            match first(server, link).await {
                Some(bytes) => ahead = bytes,
                None => return,
            }
        }
        match exchanges(server, link, ahead).await {
            Pause::Rest(left) => ahead = left,
            Pause::Over => return linger(server, link).await,
            Pause::Tell(refused) => return turn_away(server, link, refused).await,
            Pause::Leave => return,
        }
        if !ahead.is_empty() {
            link.watch.enter(Phase::Head);
        }
    }
}

/// Tells a client that it is not served, and why.
pub async fn turn_away<H>(server: &Server<H>, link: &Link, refused: Refused) {
    let words = refused.words();
    poll_fn(|context| {
        link.last_words(&words, context);
        Poll::Ready(())
    })
    .await;
    linger(server, link).await;
}

/// Waits at rest for the first bytes of a call. None: there will not be one.
async fn first<H>(server: &Server<H>, link: &Link) -> Option<Bytes> {
    watched(&link.watch, |context| {
        match link.watch.take_word() {
            None | Some(Word::Rest) => {}
            Some(Word::Late(_) | Word::Stalled | Word::Cut) => return Poll::Ready(None),
        }
        if server.closing.get() {
            return Poll::Ready(None);
        }
        let mut piece = [0; FIRST];
        match link.poll_read(context, &mut piece) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(count)) if count > 0 => {
                link.watch.received(count);
                Poll::Ready(Some(Bytes::copy_from_slice(&piece[..count])))
            }
            Poll::Ready(Ok(_) | Err(_)) => Poll::Ready(None),
        }
    })
    .await
}

/// Lets hyper read calls and write replies, for as long as they follow each other.
async fn exchanges<H: Handler>(server: &Rc<Server<H>>, link: &Rc<Link>, ahead: Bytes) -> Pause {
    let wire = Wire::new(Rc::clone(link), ahead);
    let service = service_fn(|request| answer(Rc::clone(server), Rc::clone(link), request));
    // In memory of its own, so that a connection at rest is small.
    let mut hyper = Box::new(server.http.serve_connection(wire, service));
    let mut closing = false;
    link.watch.seat(true);
    let pause = watched(&link.watch, |context| {
        let word = link.watch.take_word();
        match word {
            None | Some(Word::Rest) => {}
            Some(Word::Late(Phase::Head | Phase::Body)) => {
                server.tally.late.set(server.tally.late.get() + 1);
                return Poll::Ready(Pause::Tell(LATE));
            }
            Some(Word::Stalled) => {
                server.tally.late.set(server.tally.late.get() + 1);
                return Poll::Ready(Pause::Leave);
            }
            Some(Word::Late(Phase::Idle | Phase::Answer | Phase::Linger) | Word::Cut) => {
                return Poll::Ready(Pause::Leave);
            }
        }
        if server.closing.get() && !closing {
            if !link.watch.is_busy() {
                return Poll::Ready(Pause::Leave);
            }
            closing = true;
            Pin::new(&mut *hyper).graceful_shutdown();
        }
        match Pin::new(&mut *hyper).poll(context) {
            Poll::Ready(_) => Poll::Ready(Pause::Over),
            // Bytes may have come since the word was spoken.
            Poll::Pending if word == Some(Word::Rest) && link.watch.is_idle() => {
                Poll::Ready(Pause::Rest(Bytes::new()))
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    link.watch.seat(false);
    match pause {
        Pause::Rest(_) => Pause::Rest(hyper.into_parts().read_buf),
        other => other,
    }
}

/// The client may still be sending. Were its bytes left unread when the socket is closed, it would
/// hear of a broken connection instead of the answer.
async fn linger<H>(server: &Server<H>, link: &Link) {
    link.watch.enter(Phase::Linger);
    // hyper may have left in the middle of a sentence.
    let mut ended = false;
    watched(&link.watch, |context| {
        if !std::mem::replace(&mut ended, true) {
            let _ = link.poll_close(context);
        }
        if server.closing.get() || !matches!(link.watch.take_word(), None | Some(Word::Rest)) {
            return Poll::Ready(());
        }
        let mut piece = [0; DISCARDED];
        // So many pieces at a time, for others wait too.
        for _ in 0..16 {
            match link.poll_read(context, &mut piece) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(()),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
