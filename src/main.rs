/// Trees of statements are many small pieces: the C library took a fifth of a first look at one for them (perf, the twin's statements).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    bulkhead::cli::main()
}
