//! Takes memory, a mebibyte at a time, and touches it, until somebody stops it.

fn main() {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![held.len() as u8 | 1; 1 << 20]);
        if held.len() % 16 == 0 {
            println!("holding {} MiB", held.len());
        }
    }
}
