//! The operations themselves, without valgrind: that they do what they say, and that the table names them all.

use escrow_instructions::{Operation, table};

#[test]
fn every_operation_does_its_work_and_counts_it() {
    for operation in Operation::all() {
        let counted = operation.run();
        assert!(counted.rows > 0, "{}", operation.name);
        assert_eq!(counted, operation.run(), "{} does the same again", operation.name);
    }
}

#[test]
fn names_are_unique() {
    for operation in Operation::all() {
        let same = Operation::all().filter(|other| other.name == operation.name);
        assert_eq!(same.count(), 1, "{}", operation.name);
    }
}

#[test]
fn the_table_names_every_operation_in_order() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/instructions.md");
    let document = std::fs::read_to_string(path).unwrap();
    let rows = table::read(&document);
    let named: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let all: Vec<&str> = Operation::all().map(|operation| operation.name).collect();
    assert_eq!(named, all, "tests/bench/instructions.sh --bless writes the table");
    assert_eq!(table::replace(&document, &rows).unwrap(), document, "and says what each of them is");
}
