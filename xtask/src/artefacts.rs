//! The WebAssembly modules: built by cargo, given their JavaScript by wasm-bindgen, shrunk by binaryen.
//!
//! Cargo knows by itself what is fresh. The passes after it are skipped while what cargo built, this recipe and the
//! locked tools are the same as at the last time. Nothing is visible under its final name before it is complete.

use core::hash::{Hash, Hasher};
use std::collections::BTreeMap;
use std::fs;
use std::hash::DefaultHasher;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use wasm_bindgen_cli_support::Bindgen;
use wasmparser::{Parser, Payload};

use crate::report::Report;
use crate::{root, target_directory};

/// What Rust's wasm32 target assumes of a runtime; binaryen may use it and nothing beyond it.
const WASM_FEATURES: [&str; 7] = [
    "--enable-bulk-memory",
    "--enable-bulk-memory-opt",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
];

/// The broker as an import-free module, the same file for the native host and for the edge.
pub(crate) fn guest(report: &mut Report) -> Result<String> {
    let module = "wasm/dist/guest.wasm";
    let built = cargo_wasm(report, "dunlin-guest", "guest")?;
    let finished = root().join(module);
    if !is_fresh("guest", &built, &[&finished])? {
        let staged = staging(&finished)?;
        wasm_opt(report, &built, &staged, "-O3")?;
        publish(&staged, &finished)?;
        remember("guest", &built)?;
    }
    refuse_imports(&finished)?;
    Ok(format!("{}, imports nothing", size(module)?))
}

/// The guest as machine code of this machine, with which a start of the host has nothing to compile.
pub(crate) fn machine_code(report: &mut Report) -> Result<String> {
    report.run("cargo build --release --workspace --exclude xtask --bin precompile")?;
    let compiler = target_directory()?.join("release/precompile");
    let guest = root().join("wasm/dist/guest.wasm");
    let finished = root().join("wasm/dist/guest.machine");
    let staged = staging(&finished)?;
    let mut command = Command::new(compiler);
    command.arg(guest).arg(&staged);
    report.run_command(command)?;
    publish_changed(&staged, &finished)?;
    size("wasm/dist/guest.machine")
}

/// The broker for the npm package. Where its module comes from is left to the caller, so that no bundler is led to
/// follow a path that another one does not understand. After a trap the page gets a new instance.
pub(crate) fn engine(report: &mut Report) -> Result<String> {
    let mut bindgen = Bindgen::new();
    bindgen.web(true)?.reset_state_function(true);
    with_bindgen(
        report,
        "dunlin-wasm",
        "engine",
        "wasm/dist/engine",
        "-Oz",
        bindgen,
    )
}

/// The gateway's module for the edge, with the function that gives it a new instance after a trap.
pub(crate) fn gateway(report: &mut Report) -> Result<String> {
    let mut bindgen = Bindgen::new();
    bindgen.module(true)?.reset_state_function(true);
    with_bindgen(
        report,
        "dunlin-worker",
        "gateway",
        "worker/dist/gateway",
        "-Oz",
        bindgen,
    )
}

/// The console's page, which the host has in itself.
pub(crate) fn console(report: &mut Report) -> Result<String> {
    let finished = root().join("www/dist");
    let staged = staging(&finished)?;
    let mut command = Command::new("npm");
    command
        .args("run build --workspace www -- --emptyOutDir --outDir".split(' '))
        .arg(&staged);
    report.run_command(command)?;
    publish_changed(&staged, &finished)?;
    Ok(String::new())
}

/// Builds a package that uses wasm-bindgen into `directory`, as `name`.js, .d.ts and _bg.wasm.
fn with_bindgen(
    report: &mut Report,
    package: &str,
    name: &str,
    directory: &str,
    optimise: &str,
    mut bindgen: Bindgen,
) -> Result<String> {
    let built = cargo_wasm(report, package, "bindgen")?;
    let finished = root().join(directory);
    let module = format!("{name}_bg.wasm");
    let script = format!("{name}.js");
    if !is_fresh(
        name,
        &built,
        &[&finished.join(&module), &finished.join(&script)],
    )? {
        let staged = staging(&finished)?;
        bindgen
            .input_path(&built)
            .out_name(name)
            .typescript(true)
            .remove_name_section(true)
            .remove_producers_section(true)
            .generate(&staged)
            .with_context(|| format!("wasm-bindgen cannot read {}", built.display()))?;
        import_as_module(&staged.join(&script))?;
        let shrunk = staged.join("shrunk.wasm");
        wasm_opt(report, &staged.join(&module), &shrunk, optimise)?;
        fs::rename(&shrunk, staged.join(&module))?;
        publish(&staged, &finished)?;
        remember(name, &built)?;
    }
    Ok(format!(
        "{}; {}",
        size(&format!("{directory}/{module}"))?,
        size(&format!("{directory}/{script}"))?
    ))
}

/// `import source` is a proposal that the runtimes and bundlers at hand do not read yet; for a module that is deployed
/// with the script a plain import means the same to them.
fn import_as_module(script: &Path) -> Result<()> {
    let text = fs::read_to_string(script)?;
    fs::write(script, text.replace("import source ", "import "))?;
    Ok(())
}

/// Builds a package as a module and nothing else: beside another crate type cargo would leave out link-time
/// optimisation, without a word.
fn cargo_wasm(report: &mut Report, package: &str, profile: &str) -> Result<PathBuf> {
    report.run(&format!(
        "cargo rustc --package {package} --lib --crate-type cdylib --profile {profile} --target wasm32-unknown-unknown"
    ))?;
    let file = package.replace('-', "_");
    Ok(target_directory()?.join(format!("wasm32-unknown-unknown/{profile}/{file}.wasm")))
}

fn wasm_opt(report: &mut Report, input: &Path, output: &Path, level: &str) -> Result<()> {
    let mut command = Command::new("node");
    command
        .arg(root().join("node_modules/binaryen/bin/wasm-opt"))
        .args([level, "--strip-debug", "--strip-producers"])
        .args(WASM_FEATURES)
        .arg(input)
        .arg("-o")
        .arg(output);
    report.run_command(command)
}

/// The guest runs where there is nobody to import from: an import would be found at the first start otherwise.
fn refuse_imports(module: &Path) -> Result<()> {
    let bytes = read(module)?;
    wasmparser::validate(&bytes)
        .with_context(|| format!("{} is not a valid module", module.display()))?;
    let imports = imports(&bytes)?;
    if !imports.is_empty() {
        bail!(
            "{} must import nothing, but imports {}: find the dependency that brought it with `cargo tree -p dunlin-guest`",
            module.display(),
            imports.join(", ")
        );
    }
    Ok(())
}

fn imports(module: &[u8]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::ImportSection(section) = payload? {
            for import in section.into_imports() {
                let import = import?;
                names.push(format!("{}.{}", import.module, import.name));
            }
        }
    }
    Ok(names)
}

/// Where a file or directory lies until it is complete: beside its final place, so that a rename puts it there.
fn staging(finished: &Path) -> Result<PathBuf> {
    let parent = finished.parent().expect("an artefact lies in a directory");
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let name = finished.file_name().expect("an artefact has a name");
    let staged = parent.join(format!(".{}-{}", name.display(), std::process::id()));
    remove(&staged)?;
    Ok(staged)
}

/// Puts what is complete in its place. A directory is replaced as a whole, so that nothing of an earlier build stays.
fn publish(staged: &Path, finished: &Path) -> Result<()> {
    remove(finished)?;
    fs::rename(staged, finished).with_context(|| format!("cannot write {}", finished.display()))
}

/// The same for what the host has in itself: unchanged it is left untouched, so that cargo does not build the host anew.
fn publish_changed(staged: &Path, finished: &Path) -> Result<()> {
    if files(finished)? == files(staged)? {
        return remove(staged);
    }
    publish(staged, finished)
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Every file below a directory, by its path there, or a file alone; none where there is nothing. Without source maps:
/// the host leaves them out, and Vite gives some names in them anew at every build.
fn files(directory: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut unread = vec![directory.to_path_buf()];
    while let Some(path) = unread.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                unread.push(entry?.path());
            }
        } else if path.exists() && path.extension().is_none_or(|extension| extension != "map") {
            found.insert(path.strip_prefix(directory)?.to_path_buf(), read(&path)?);
        }
    }
    Ok(found)
}

fn is_fresh(name: &str, built: &Path, outputs: &[&Path]) -> Result<bool> {
    let remembered = fs::read_to_string(stamp(name)?).unwrap_or_default();
    Ok(outputs.iter().all(|output| output.exists()) && remembered == fingerprint(built)?)
}

fn remember(name: &str, built: &Path) -> Result<()> {
    Ok(fs::write(stamp(name)?, fingerprint(built)?)?)
}

fn stamp(name: &str) -> Result<PathBuf> {
    Ok(target_directory()?.join(format!("xtask/{name}.stamp")))
}

fn fingerprint(built: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    include_str!("artefacts.rs").hash(&mut hasher);
    read(&root().join("package-lock.json"))?.hash(&mut hasher);
    read(built)?.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file's name and its size, plain and as it travels.
fn size(path: &str) -> Result<String> {
    let bytes = read(&root().join(path))?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&bytes)?;
    let zipped = encoder.finish()?;
    let kib = |bytes: usize| format!("{}.{} KiB", bytes / 1024, bytes % 1024 * 10 / 1024);
    Ok(format!(
        "{path} {} ({} gzip)",
        kib(bytes.len()),
        kib(zipped.len())
    ))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const HEADER: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn what_did_not_change_is_left_untouched() {
        let top = std::env::temp_dir().join(format!("dunlin-xtask-{}", std::process::id()));
        let (staged, finished) = (top.join("staged"), top.join("finished"));
        let publish_one = |name: &str, text: &str| {
            fs::create_dir_all(staged.join("assets")).expect("a directory");
            fs::write(staged.join("assets").join(name), text).expect("a file");
            let map = format!("{name}.{:?}", SystemTime::now());
            fs::write(staged.join("page.js.map"), map).expect("a file");
            publish_changed(&staged, &finished).expect("it is published");
            assert!(!staged.exists(), "nothing is left behind");
            let found = files(&finished).expect("it can be read");
            assert_eq!(found.into_values().collect::<Vec<_>>(), [text.as_bytes()]);
            // What is still this old was left untouched.
            let file = fs::File::open(finished.join("assets").join(name)).expect("it is there");
            let found = file.metadata().and_then(|file| file.modified());
            file.set_modified(SystemTime::UNIX_EPOCH)
                .expect("it takes a time");
            found.expect("it has a time") == SystemTime::UNIX_EPOCH
        };
        assert!(!publish_one("page.js", "one"));
        assert!(publish_one("page.js", "one"));
        assert!(!publish_one("page.js", "two"));
        assert!(!publish_one("renamed.js", "two"));
        fs::remove_dir_all(&top).expect("it can be removed");
    }

    #[test]
    fn an_import_is_found_and_named() {
        // A type section with one `func()`, and an import section that takes `env.log` as one.
        let module = [
            HEADER,
            b"\x01\x04\x01\x60\x00\x00",
            b"\x02\x0b\x01\x03env\x03log\x00\x00",
        ]
        .concat();
        assert_eq!(imports(&module).expect("a valid module"), ["env.log"]);
    }

    #[test]
    fn a_module_without_an_import_section_imports_nothing() {
        assert!(imports(HEADER).expect("a valid module").is_empty());
    }
}
