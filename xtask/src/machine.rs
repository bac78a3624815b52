//! What the machine must have before the steps can run: the npm packages and a browser.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::report::Report;
use crate::root;

/// Where Debian's package puts the browser, and where the tests look for it.
const CHROMIUM: &str = "/usr/bin/chromium";

/// Installs the npm packages that the lock file names, unless they are there.
pub(crate) fn npm_packages(report: &mut Report) -> Result<String> {
    let lock = read_json(&root().join("package-lock.json"))?;
    // npm writes down what it has installed, last of all.
    let installed = read_json(&root().join("node_modules/.package-lock.json"));
    if installed.is_ok_and(|installed| satisfies(&lock, &installed)) {
        return Ok("already installed".to_owned());
    }
    report.run("npm ci --no-progress")?;
    Ok("installed from package-lock.json".to_owned())
}

/// Installs Debian's Chromium, unless a browser is there.
pub(crate) fn chromium(report: &mut Report) -> Result<String> {
    if !Path::new(CHROMIUM).exists() {
        if !is_root()? {
            bail!(
                "no browser at {CHROMIUM}, and only root may install it: run `sudo apt-get install chromium`, then try again"
            );
        }
        report.run("apt-get update")?;
        report.run("apt-get install -y chromium")?;
    }
    report.run(&format!("{CHROMIUM} --version"))?;
    Ok(CHROMIUM.to_owned())
}

fn is_root() -> Result<bool> {
    let own = fs::metadata("/proc/self").context("cannot tell which user this is")?;
    Ok(own.uid() == 0)
}

fn read_json(path: &Path) -> Result<Value> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))
}

/// Whether every package of the lock file that this machine needs is installed in that version. Optional packages are
/// those of other platforms too, so they may be absent but not differ.
fn satisfies(lock: &Value, installed: &Value) -> bool {
    let (Some(wanted), Some(present)) = (
        lock["packages"].as_object(),
        installed["packages"].as_object(),
    ) else {
        return false;
    };
    wanted
        .iter()
        .filter(|(path, _)| path.starts_with("node_modules/"))
        .all(|(path, package)| match present.get(path) {
            Some(there) => {
                there["version"] == package["version"] && there["link"] == package["link"]
            }
            None => package["optional"] == true || package["devOptional"] == true,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lock() -> Value {
        json!({ "packages": {
            "": { "name": "workspace" },
            "node_modules/a": { "version": "1.0.0" },
            "node_modules/elsewhere": { "version": "1.0.0", "optional": true },
        }})
    }

    #[test]
    fn packages_of_other_platforms_may_be_absent() {
        let installed = json!({ "packages": { "node_modules/a": { "version": "1.0.0" } } });
        assert!(satisfies(&lock(), &installed));
    }

    #[test]
    fn a_missing_package_or_another_version_is_installed_again() {
        let other = json!({ "packages": { "node_modules/a": { "version": "1.0.1" } } });
        let none = json!({ "packages": {} });
        assert!(!satisfies(&lock(), &other));
        assert!(!satisfies(&lock(), &none));
        assert!(!satisfies(&lock(), &json!(null)));
    }
}
