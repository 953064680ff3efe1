/// Half of what a statement costs when it is seen for the first time was in the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    bulkhead::cli::main()
}
