//! The list of models, which has one.

use serde::Serialize;

use super::super::fault::Fault;
use super::super::fields::Result;
use super::super::house::{House, ModelCard};
use super::super::reply::Reply;
use super::super::routes::json;
use super::super::wanted::short;

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    context_length: usize,
}

#[derive(Serialize)]
struct List<'a> {
    object: &'static str,
    data: [Model<'a>; 1],
}

fn model(card: &ModelCard) -> Model<'_> {
    let ModelCard { id, created, context, .. } = card;
    let (object, owned_by) = ("model", "penstock");
    Model { id, object, created: *created, owned_by, context_length: *context }
}

pub fn list(house: &House) -> Reply {
    json(&List { object: "list", data: [model(&house.model)] })
}

pub fn one(house: &House, name: &str) -> Result<Reply> {
    match !name.is_empty() && house.is_ours(name) {
        true => Ok(json(&model(&house.model))),
        false => Err(Fault::no_model(&short(name), &house.model.id)),
    }
}
