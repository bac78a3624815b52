//! Puts what other steps of the build made into the binary: the guest module, the machine code that was compiled of it,
//! and the console's files.
//!
//! All may be missing, as in a fresh clone: then the binary is built without them and says at run time what to do,
//! so that `cargo check`, the linter and an editor never depend on another toolchain. What is there is copied first,
//! since another build may replace it before the compiler gets to it.

use core::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Names another guest module than the one that `cargo xtask build` makes.
const GUEST_VARIABLE: &str = "DUNLIN_GUEST";

fn main() {
    // Asked for when it runs, since two clones that share a target directory share this program as well.
    let host = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let root = Path::new(&host)
        .parent()
        .expect("host/ lies in the repository");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={GUEST_VARIABLE}");

    let guest = env::var_os(GUEST_VARIABLE)
        .map_or_else(|| root.join("wasm/dist/guest.wasm"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", guest.display());
    let copy = out.join("guest.wasm");
    let guest = if fs::copy(&guest, &copy).is_ok() {
        format!("Some(include_bytes!({copy:?}))")
    } else {
        println!(
            "cargo::warning={} is missing, so `dunlin serve` will need `--engine native`; run `cargo xtask build`",
            guest.display()
        );
        String::from("None")
    };

    // Without it, or with that of another guest, every start compiles.
    let code = root.join("wasm/dist/guest.machine");
    println!("cargo::rerun-if-changed={}", code.display());
    let copy = out.join("guest.machine");
    let code = match fs::copy(&code, &copy) {
        Ok(_) => format!("Some(include_bytes!({copy:?}))"),
        Err(_) => String::from("None"),
    };

    let console = root.join("www/dist");
    println!("cargo::rerun-if-changed={}", console.display());
    let mut files = Vec::new();
    list(&console, &console, &mut files);
    files.sort();

    let mut source = format!(
        "/// The guest module, if it was there when this was built.\n\
         pub(crate) static GUEST: Option<&[u8]> = {guest};\n\
         /// What `dunlin_compiler::precompile` gave for a guest, if that was there.\n\
         pub(crate) static GUEST_CODE: Option<&[u8]> = {code};\n\
         /// The console's files by their path below `/`, in order.\n\
         pub(crate) static CONSOLE: &[(&str, &[u8])] = &[\n"
    );
    for (index, (name, path)) in files.iter().enumerate() {
        let copy = out.join(format!("console-{index}"));
        if fs::copy(path, &copy).is_ok() {
            writeln!(source, "    ({name:?}, include_bytes!({copy:?})),")
                .expect("a string takes everything");
        }
    }
    source.push_str("];\n");
    fs::write(out.join("embedded.rs"), source).expect("OUT_DIR can be written");
}

/// Every file below `folder`, by its path from `top` with slashes; but for source maps, which are larger than all else.
fn list(top: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            list(top, &path, files);
        } else if path.extension().is_none_or(|extension| extension != "map") {
            let name = path.strip_prefix(top).expect("it lies below the top");
            let name = name
                .to_str()
                .expect("a file of the console has a plain name");
            files.push((name.replace('\\', "/"), path));
        }
    }
}
