//! Mutants of good flags break no parser, and what a parser takes in can be written again.

#[path = "support/checks.rs"]
mod checks;
#[path = "../../api/tests/support/mod.rs"]
mod support;

#[test]
fn mutated_flags_break_no_parser() {
    let good: Vec<Vec<u8>> = [
        "cpus:4;mem:8192;disk:10240;ports:[31000-32000, 33000-34000]",
        "cpus(web):2.5;cpus(*):0.001;zones:{a,b,c}",
        "rack:r1;level:10;keys:[1000-1500];name:a/b",
        "cpus:0.01;mem:32",
        "web/front",
        "10mins",
        "1.5hrs",
        "64MB",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    support::mutate::attack(40_000, &good, checks::text);
}
