//! Any bytes as a GGUF model are opened, given weights and a tokenizer, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock::host::mapping::Bytes;
use penstock::model::{Message, Model, Text};
use penstock::weights::{Gguf, Source};

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzz.gguf", Bytes::made(bytes.to_vec())) else { return };
    let source = Source::Gguf(gguf);
    let _ = Model::open(&source);
    if let Ok(text) = Text::open(&source) {
        let _ = text.chat_tokens(&[Message::new("user", "Hello 世界 <s>")]);
    }
});
