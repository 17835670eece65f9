//! Tests of model folders: good ones read exactly, bad ones answered with one sentence, hostile ones without a panic.

mod bad_config;
mod bad_weights;
mod config;
mod folder;
mod hostile;
mod rope;
mod tokenizer;
mod weights;
