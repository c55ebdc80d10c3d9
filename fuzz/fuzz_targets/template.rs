//! Any text as a chat template ends in text or in an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock::model::template::{ChatTemplate, Message, Options};

fuzz_target!(|source: &str| {
    if let Ok(template) = ChatTemplate::new(source, Some("<s>"), Some("</s>")) {
        let messages = [Message::new("system", "Be brief."), Message::new("user", "Hello 世界")];
        let options = Options { add_generation_prompt: true, ..Options::default() };
        let _ = template.render(&messages, &options);
    }
});
