//! Any bytes as the body of any request: an answer, or an error object that says what is wrong.
#![no_main]

use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::future::block_on;
use libfuzzer_sys::fuzz_target;
use penstock::engine::End;
use penstock::engine::desk::{Account, Load, Refusal, Request, Update};
use penstock::model::{Text, demo};
use penstock::serve::family::OfText;
use penstock::serve::house::{Counter, House, ModelCard, Updates};
use penstock::serve::reply::{Body, Call};
use penstock::serve::routes;

/// Every answer is empty.
struct Silent;

struct Once(Option<Update>);

impl Counter for Silent {
    fn submit(&self, _: Request) -> Result<Box<dyn Updates>, Refusal> {
        let (end, text, account) = (End::Text, String::new(), Account::default());
        Ok(Box::new(Once(Some(Update::Ended { end, text, account }))))
    }

    fn load(&self) -> Load {
        Load::default()
    }

    fn cancel(&self, _: u64) -> bool {
        false
    }
}

impl Updates for Once {
    fn id(&self) -> u64 {
        1
    }

    fn poll_next(&mut self, _: &mut Context) -> Poll<Option<Update>> {
        Poll::Ready(self.0.take())
    }
}

const PATHS: [&str; 6] =
    ["/v1/chat/completions", "/v1/completions", "/execute", "/cancel", "/tokenize", "/detokenize"];

thread_local!(static HOUSE: Rc<House> = {
    let text = Text::open(&demo::source().unwrap()).unwrap();
    let model = ModelCard {
        id: "demo".into(),
        aliases: Vec::new(),
        created: 0,
        context: 256,
        vocab: text.tokenizer.vocab_size(),
        fingerprint: String::new(),
    };
    let text = Rc::new(text);
    let (counter, family) = (Box::new(Silent), Box::new(OfText::new(Rc::clone(&text))));
    let house = House::new(counter, text, family, model, Box::new(String::new));
    house.ready.set(true);
    Rc::new(house)
});

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else { return };
    let call = Call {
        method: hyper::Method::POST,
        path: PATHS[*first as usize % PATHS.len()].into(),
        headers: hyper::HeaderMap::new(),
        body: hyper::body::Bytes::copy_from_slice(body),
    };
    let reply = HOUSE.with(|house| block_on(routes::answer(house, call)));
    match reply.status.as_u16() {
        200 => {}
        400 | 404 => {
            let Body::Whole(body) = reply.body else { panic!("an error in events") };
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert!(body["error"]["message"].is_string());
        }
        other => panic!("{other}"),
    }
});
