//! What a machine in MIG's extra privacy mode keeps to itself: what its files are called.
//!
//! Stays true: how many files were found, and how large and old they are, is told as without it; what a person asked comes
//! back as it was asked. As in MIG it is the module `file` whose results are masked.

use crate::ModuleResult;
use serde_json::Value;

/// What stands in the place of a path or of an error, as MIG writes it.
pub const MASKED: &str = "masked";

/// Masks the result of the module called `module`.
pub fn mask(module: &str, result: &mut ModuleResult) {
    if module != "file" {
        return;
    }
    for entry in result.elements.as_object_mut().into_iter().flat_map(|labels| labels.values_mut()) {
        entry.as_array_mut().into_iter().flatten().for_each(mask_file);
    }
    // Errors name the path that could not be read.
    result.errors.iter_mut().flatten().for_each(|error| MASKED.clone_into(error));
}

fn mask_file(found: &mut Value) {
    // An entry without a file says that nothing was found.
    let Some(Value::String(file)) = found.get_mut("file") else { return };
    if file.is_empty() {
        return;
    }
    MASKED.clone_into(file);
    let Some(search) = found.get_mut("search").and_then(Value::as_object_mut) else { return };
    let is_asked = search.get("options").and_then(|options| options.get("matchall")) == Some(&Value::Bool(true));
    // Where not all of a search must fit, the directory of the file stands in the place of what was asked.
    if let Some(paths) = search.get_mut("paths").filter(|_| !is_asked) {
        *paths = Value::from([MASKED]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn result(elements: Value) -> ModuleResult {
        ModuleResult { elements, ..ModuleResult::ran(true, (), ()) }.with_errors(vec!["/srv/ann: denied".to_owned()])
    }

    #[test]
    fn files_and_errors_are_masked_and_nothing_else_is() {
        let search = json!({ "paths": ["/srv"], "names": ["x"], "options": { "matchall": true } });
        let info = json!({ "size": 7.0, "mode": "-rw", "lastmodified": "t" });
        let mut masked = result(json!({ "s1": [
            { "file": "/srv/ann/x", "search": search, "fileinfo": info },
            { "file": "/srv/ann/x", "search": { "paths": ["/srv/ann"] }, "fileinfo": info },
            { "file": "", "search": search },
        ]}));
        mask("file", &mut masked);
        let found = &masked.elements["s1"];
        assert_eq!(
            (&found[0]["file"], &found[1]["file"], &found[2]["file"]),
            (&json!("masked"), &json!("masked"), &json!(""))
        );
        assert_eq!((&found[0]["search"], &found[0]["fileinfo"]), (&search, &info));
        assert_eq!(found[1]["search"]["paths"], json!(["masked"]));
        assert_eq!(masked.errors(), ["masked"]);
        assert!(!serde_json::to_string(&masked).unwrap().contains("ann"));
    }

    #[test]
    fn other_modules_and_odd_results_stay_as_they_are() {
        for (module, elements) in
            [("pkg", json!({ "s": [{ "file": "/x" }] })), ("file", json!(null)), ("file", json!([1]))]
        {
            let mut masked = result(elements.clone());
            mask(module, &mut masked);
            assert_eq!(masked.elements, elements);
        }
    }
}
