//! The program `agentkey`.

fn main() -> std::process::ExitCode {
    agentkey_cli::main()
}
