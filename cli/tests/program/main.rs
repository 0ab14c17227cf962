//! The program as its users run it: as a process, on an SQLite file and on a PostgreSQL of the tests' own.
#![cfg(unix)]

#[path = "../../../tests/support/postgres.rs"]
mod postgres;

mod accounts;
mod adoption;
mod arguments;
mod databases;
mod doctor;
mod events;
mod exports;
mod imports;
mod keys;
mod money;
mod reconciliation;
mod retention;
mod secrets;
mod service;
mod terminal;
mod world;
