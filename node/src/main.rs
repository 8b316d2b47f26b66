#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_node::main()
}
