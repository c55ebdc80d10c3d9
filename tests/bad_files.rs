//! Bad model files: a sentence that names file, field and reason; never a panic; never an
//! allocation beyond the file's size class.

#[path = "bad_files/allocation.rs"]
mod allocation;
#[path = "bad_files/folders.rs"]
mod folders;
#[path = "bad_files/foreign.rs"]
mod foreign;
#[path = "bad_files/gguf.rs"]
mod gguf;
#[path = "support/gguf_writer.rs"]
mod gguf_writer;
#[path = "bad_files/mutants.rs"]
mod mutants;
#[path = "bad_files/safetensors.rs"]
mod safetensors;
#[path = "support/safetensors_writer.rs"]
mod safetensors_writer;
#[path = "bad_files/splits.rs"]
mod splits;

/// What a bad file must be answered with: it names the file and the field, and its reason holds
/// these words.
#[track_caller]
fn refused<T>(result: penstock::weights::Result<T>, file: &str, field: &str, reason: &str) {
    let message = match result {
        Ok(_) => panic!("not refused: {field}: {reason}"),
        Err(error) => error.to_string(),
    };
    let Some((named, rest)) = message.split_once(&format!("{field}: ")) else {
        panic!("{message:?} does not name the field {field:?}");
    };
    assert!(named.contains(file), "{message:?} does not name the file {file:?}");
    assert!(rest.contains(reason), "{message:?} does not say {reason:?}");
    assert!(!message.contains('\n') && message.len() < 2000, "not a sentence: {message:?}");
}
