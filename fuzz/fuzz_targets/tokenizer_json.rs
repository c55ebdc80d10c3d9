//! Any bytes as a tokenizer.json end in a tokenizer that works or in an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock::model::tokenizer::{JsonFile, JsonFiles, Special, Tokenizer};

fuzz_target!(|bytes: &[u8]| {
    let file = JsonFile { name: "tokenizer.json", bytes };
    let files = JsonFiles {
        tokenizer: file,
        tokenizer_config: None,
        generation_config: None,
        config: None,
    };
    if let Ok(tokenizer) = Tokenizer::from_json(&files) {
        for special in [Special::Parse, Special::Plain] {
            if let Ok(ids) = tokenizer.encode("Hello  wörld 123\n\n日本 😀 <s> x", special, true) {
                tokenizer.decode(&ids, special == Special::Parse);
            }
        }
    }
});
