//! Text in and out of models: tokenizers, chat templates and sampling against outside truth.
//! The vectors in `tests/text/` were made by the scripts beside them.

#[path = "text/grammars.rs"]
mod grammars;
#[path = "text/mutate.rs"]
mod mutate;
#[path = "text/templates.rs"]
mod templates;
#[path = "text/tokenizers.rs"]
mod tokenizers;
#[path = "text/tools.rs"]
mod tools;
