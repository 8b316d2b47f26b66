//! Puts the console into the binary: the files that `npm run build` has left in `console/dist`, or none.

use std::{env, fmt::Write, fs, io, path::Path};

fn main() -> io::Result<()> {
    let dist = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../console/dist");
    // It is there in every checkout, so that Cargo need not look each time for one that is missing.
    println!("cargo:rerun-if-changed={}", dist.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&dist)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let version = fs::read_to_string(dist.join("version")).unwrap_or_default();
    let mut code =
        format!("pub(super) const VERSION: &str = {version:?};\npub(super) const FILES: &[(&str, &[u8])] = &[\n");
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    let out = Path::new(&out);
    for name in names.iter().filter_map(|name| name.strip_suffix(".gz")) {
        // A copy, which is still there when the console is built again while the compiler runs.
        let copy = out.join(name);
        fs::copy(dist.join(format!("{name}.gz")), &copy)?;
        // Writing to a String does not fail.
        let _ = writeln!(code, "    ({name:?}, include_bytes!({:?})),", copy.display().to_string());
    }
    code.push_str("];\n");
    fs::write(out.join("console.rs"), code)
}
