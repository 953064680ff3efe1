//! A policy file of any contents: a model, or problems that can be shown.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(problems) = bulkhead::policy::load::read(vec![("fuzz.toml".into(), text.to_owned())], &["shop".to_owned()]) {
        let _ = problems.render(false);
    }
});
