//! Which files a dataset is made of: one, or the shards of a folder in the order of their names.

use crate::source::Files;

/// The ending of the files.
pub(crate) const ENDING: &str = ".parquet";

/// The files of a dataset, by their paths. A subset is a folder in the folder, or the shards whose names begin with it
/// (`train` for `train-00000-of-00002.parquet`), as Hugging Face and ModelScope lay datasets out.
pub(crate) fn find(files: &dyn Files, location: &str, subset: Option<&str>) -> Result<Vec<String>, String> {
    let Ok(entries) = files.entries(location) else {
        if let Some(subset) = subset {
            return Err(format!("a file has no subset `{subset}`; leave `:{subset}` out"));
        }
        return Ok(vec![location.to_owned()]);
    };
    let folder = location.trim_end_matches('/');
    let shards = |entries: &[crate::source::Entry], folder: &str, begin: &str| -> Vec<String> {
        let mut names: Vec<&str> = entries
            .iter()
            .filter(|entry| !entry.is_folder && entry.name.ends_with(ENDING) && entry.name.starts_with(begin))
            .map(|entry| entry.name.as_str())
            .collect();
        names.sort_unstable();
        names.into_iter().map(|name| format!("{folder}/{name}")).collect()
    };
    let Some(subset) = subset else {
        let found = shards(&entries, folder, "");
        if !found.is_empty() {
            return Ok(found);
        }
        let folders: Vec<&str> = entries.iter().filter(|e| e.is_folder).map(|e| e.name.as_str()).collect();
        return Err(match folders.as_slice() {
            [] => format!("the folder has no {ENDING} files"),
            folders => {
                format!("the folder has no {ENDING} files; name one of its folders as a subset: {}", folders.join(", "))
            }
        });
    };
    if subset.contains(['/', '\\']) || subset == ".." {
        return Err(format!("`{subset}` is no name of a subset"));
    }
    let found = match entries.iter().find(|entry| entry.is_folder && entry.name == subset) {
        Some(_) => {
            let folder = format!("{folder}/{subset}");
            shards(&files.entries(&folder)?, &folder, "")
        }
        None => {
            let mut found = shards(&entries, folder, &format!("{subset}-"));
            found.extend(shards(&entries, folder, &format!("{subset}{ENDING}")));
            found
        }
    };
    if found.is_empty() {
        return Err(format!("there is no subset `{subset}`: no folder with {ENDING} files, no {subset}-*{ENDING}"));
    }
    Ok(found)
}
