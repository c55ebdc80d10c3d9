//! The JSON files of a Hugging Face folder: index and configuration.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use penstock::weights::folder::{Index, parse_json};

fuzz_target!(|data: &[u8]| {
    let path = Path::new("fuzz");
    let _ = parse_json(path, data);
    if let Ok(index) = Index::parse(path, data) {
        for shard in index.shards() {
            assert!(!shard.contains('/') && shard != "..");
        }
    }
});
