//! Tells the program which commit it was built from.

#[path = "../commit.rs"]
mod commit;

fn main() {
    commit::tell();
}
