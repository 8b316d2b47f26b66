#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    weft_node::main()
}
