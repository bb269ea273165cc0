//! ◆ Folders on disk: read whole, and watched for edits. Hides the walk, links, and how editors and Kubernetes save.
//! INVARIANT: what is read lies below the folder, links resolved. INVARIANT: what looks like a policy file and cannot
//! be read is an error, never a file less: a missing `forbid` would open what it closes.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsStr,
    fs::{self, File, Metadata},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use thiserror::Error;

use crate::policy::folder::{BYTES_MAX, FILES_MAX, Folder, FolderLimit};

/// Why a folder cannot be read or watched. Each names the path and the mend.
#[derive(Debug, Error)]
pub enum FolderError {
    #[error("`{}` cannot be read: {error}; check that it exists and that this process may read it", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("`{}` is no folder; name the folder that holds the policies", path.display())]
    NotAFolder { path: PathBuf },
    #[error("`{}` is no regular file; rename it or move it out of the folder", path.display())]
    NotAFile { path: PathBuf },
    #[error("`{}` has a name that is not UTF-8; rename it", path.display())]
    NotUtf8 { path: PathBuf },
    #[error("`{}` leads out of the folder; copy what it links to into the folder", path.display())]
    LeadsOutside { path: PathBuf },
    #[error("`{}` leads to a folder that is read already; remove the link", path.display())]
    FolderTwice { path: PathBuf },
    #[error("`{}` lies more than {DEPTH_MAX} folders deep; move it up", path.display())]
    TooDeep { path: PathBuf },
    #[error("`{}` is too large: {limit}; split it or leave out what is no policy", path.display())]
    TooLarge { path: PathBuf, limit: FolderLimit },
    #[error("`{}` cannot be watched: {error}", path.display())]
    Unwatchable { path: PathBuf, error: io::Error },
}

/// What is read, by extension. The copies that editors leave (`a.cedar~`, `#a.cedar#`, `.a.cedar.swp`) have another.
const EXTENSIONS: &[&str] = &["cedar", "cedarschema", "yaml", "yml", "json"];
const DEPTH_MAX: usize = 8;

/// Every policy file at and below `path`. Hidden files and folders are skipped; links are followed within the folder.
pub fn read(path: &Path) -> Result<Folder, FolderError> {
    read_within(path, BYTES_MAX, FILES_MAX)
}

fn read_within(root: &Path, bytes_max: usize, files_max: usize) -> Result<Folder, FolderError> {
    let mut files = BTreeMap::new();
    let mut bytes_left = bytes_max;
    walk(root, |found| {
        let too_large = |limit| FolderError::TooLarge { path: root.to_owned(), limit };
        if files.len() == files_max {
            return Err(too_large(FolderLimit::Files));
        }
        let mut bytes = Vec::new();
        File::open(&found.path)
            .and_then(|file| file.take(bytes_left as u64 + 1).read_to_end(&mut bytes))
            .map_err(unreadable(&found.path))?;
        bytes_left = bytes_left.checked_sub(bytes.len()).ok_or_else(|| too_large(FolderLimit::Bytes))?;
        files.insert(found.name, bytes);
        Ok(())
    })?;
    Ok(Folder(files))
}

/// A file to read: its name relative to the folder, where it really lies, and what the file system knows of it.
struct Found {
    name: String,
    path: PathBuf,
    metadata: Metadata,
}

/// Visits every policy file. A folder is entered once, so that links cannot multiply the work.
fn walk(root: &Path, mut visit: impl FnMut(Found) -> Result<(), FolderError>) -> Result<(), FolderError> {
    let root = fs::canonicalize(root).map_err(unreadable(root))?;
    if !root.is_dir() {
        return Err(FolderError::NotAFolder { path: root });
    }
    let mut entered = HashSet::from([root.clone()]);
    let mut waiting = vec![(root.clone(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = waiting.pop() {
        for entry in fs::read_dir(&folder).map_err(unreadable(&folder))? {
            let entry = entry.map_err(unreadable(&folder))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let named = entry.path();
            // Below a resolved folder, only what is itself a link leads elsewhere.
            let path = match entry.file_type().map_err(unreadable(&named))?.is_symlink() {
                true => fs::canonicalize(&named).map_err(unreadable(&named))?,
                false => named.clone(),
            };
            let metadata = fs::metadata(&path).map_err(unreadable(&path))?;
            if !metadata.is_dir() && !is_policy_file(&name) {
                continue;
            }
            if !path.starts_with(&root) {
                return Err(FolderError::LeadsOutside { path: named });
            }
            let Some(name) = name.to_str().map(|name| format!("{prefix}{name}")) else {
                return Err(FolderError::NotUtf8 { path: named });
            };
            if metadata.is_file() {
                visit(Found { name, path, metadata })?;
            } else if !metadata.is_dir() {
                return Err(FolderError::NotAFile { path: named });
            } else if depth == DEPTH_MAX {
                return Err(FolderError::TooDeep { path: named });
            } else if !entered.insert(path.clone()) {
                return Err(FolderError::FolderTwice { path: named });
            } else {
                waiting.push((path, format!("{name}/"), depth + 1));
            }
        }
    }
    Ok(())
}

fn is_policy_file(name: &OsStr) -> bool {
    Path::new(name).extension().and_then(OsStr::to_str).is_some_and(|extension| EXTENSIONS.contains(&extension))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    move |error| FolderError::Unreadable { path: path.to_owned(), error }
}

/// Watches until it is dropped.
#[must_use = "dropped, it watches no longer"]
#[derive(Debug)]
pub struct Watcher {
    notes: mpsc::Sender<Note>,
}

/// Tells of each burst of edits at and below `path`, once it has ended; a tell that is still waiting stands for all.
/// Watch first, then read: an edit between the two is then told. The file system's own events are quick but can be
/// lost (a folder deleted and made again, a link followed, a network drive), so a fingerprint is compared besides.
pub fn watch(path: &Path, tell: tokio::sync::mpsc::Sender<()>) -> Result<Watcher, FolderError> {
    let pace = Pace { quiet: Duration::from_millis(100), poll: Duration::from_secs(2), events: true };
    watch_at(path, tell, pace)
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    /// After the last event of a burst.
    quiet: Duration,
    /// Between two fingerprints; also the longest that a burst without an end is waited for.
    poll: Duration,
    /// Whether the file system is asked for events, or the fingerprint stands alone.
    events: bool,
}

fn watch_at(path: &Path, tell: tokio::sync::mpsc::Sender<()>, pace: Pace) -> Result<Watcher, FolderError> {
    if !fs::metadata(path).map_err(unreadable(path))?.is_dir() {
        return Err(FolderError::NotAFolder { path: path.to_owned() });
    }
    let (notes, inbox) = mpsc::channel();
    let mut watch = Watch { path: path.to_owned(), pace, notes: notes.clone(), events: None, last: Print::of(path) };
    watch.listen();
    let thread = thread::Builder::new().name("policy folder".to_owned());
    thread
        .spawn(move || watch.run(&inbox, &tell))
        .map_err(|error| FolderError::Unwatchable { path: path.to_owned(), error })?;
    Ok(Watcher { notes })
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Where nobody listens any more, nothing is left to stop.
        let _ = self.notes.send(Note::Stop);
    }
}

enum Note {
    Changed,
    Stop,
}

struct Watch {
    path: PathBuf,
    pace: Pace,
    notes: mpsc::Sender<Note>,
    /// None where the file system gives no events: then the fingerprint stands alone.
    events: Option<notify::RecommendedWatcher>,
    last: Print,
}

impl Watch {
    fn run(mut self, inbox: &mpsc::Receiver<Note>, tell: &tokio::sync::mpsc::Sender<()>) {
        loop {
            let Some(changed) = self.burst(inbox) else { return };
            // First the events, then the look: what is edited between the two is seen by one of them.
            let root = Print::root_of(&self.path);
            if root != self.last.root || (self.events.is_none() && self.pace.events) {
                self.listen();
            }
            let now = Print { root, files: Print::files_of(&self.path) };
            // An event counts by itself: two edits within one tick of the clock can leave the same fingerprint.
            if changed || now != self.last {
                self.last = now;
                if let Err(tokio::sync::mpsc::error::TrySendError::Closed(())) = tell.try_send(()) {
                    return;
                }
            }
        }
    }

    /// Waits for the end of a burst of events, or for the time to look. Whether there was an event; none: stop.
    fn burst(&self, inbox: &mpsc::Receiver<Note>) -> Option<bool> {
        // A folder that is gone gives no events: it is looked for often.
        let look = if self.last.root.is_none() { self.pace.quiet } else { self.pace.poll };
        let mut end = Instant::now() + look;
        let mut changed = false;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match inbox.recv_timeout(if changed { left.min(self.pace.quiet) } else { left }) {
                Ok(Note::Changed) if !changed => {
                    end = Instant::now() + self.pace.poll;
                    changed = true;
                }
                Ok(Note::Changed) if left.is_zero() => return Some(true),
                Ok(Note::Changed) => {}
                Ok(Note::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => return Some(changed),
            }
        }
    }

    /// Asks the file system for events, anew where the folder is another than before.
    fn listen(&mut self) {
        self.events = None;
        if !self.pace.events || !self.path.is_dir() {
            return;
        }
        let notes = self.notes.clone();
        let heard = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| matters(&event)) {
                // Where nobody listens any more, nobody needs to know.
                let _ = notes.send(Note::Changed);
            }
        };
        let watcher = notify::recommended_watcher(heard).and_then(|mut watcher| {
            watcher.watch(&self.path, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => self.events = Some(watcher),
            Err(error) => tracing::debug!(%error, "no events of the policy folder; it is looked at from time to time"),
        }
    }
}

/// Not what only reads, as we do ourselves, and not what editors keep beside a file.
fn matters(event: &Event) -> bool {
    let writes = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    };
    writes && (event.paths.is_empty() || !event.paths.iter().all(|path| is_editors_own(path)))
}

fn is_editors_own(path: &Path) -> bool {
    let name = path.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
    name.ends_with(b"~") || name.ends_with(b"#") || name.starts_with(b".#") || name.ends_with(b".swp")
}

/// A folder as far as a cheap look tells: names, sizes and times, not contents.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Print {
    /// Which folder it is; none where there is none.
    root: Option<u64>,
    files: u64,
}

impl Print {
    fn of(path: &Path) -> Print {
        Print { root: Print::root_of(path), files: Print::files_of(path) }
    }

    fn root_of(path: &Path) -> Option<u64> {
        let path = fs::canonicalize(path).ok()?;
        let metadata = fs::metadata(&path).ok()?;
        let mut hasher = DefaultHasher::new();
        // A folder made again may well get the number of the old one.
        (path, identity(&metadata), metadata.created().ok()).hash(&mut hasher);
        Some(hasher.finish())
    }

    fn files_of(path: &Path) -> u64 {
        // The order of a walk is the file system's: the sum does not depend on it.
        let mut files = 0u64;
        let walked = walk(path, |found| {
            let mut hasher = DefaultHasher::new();
            (&found.name, &found.path, found.metadata.len(), found.metadata.modified().ok()).hash(&mut hasher);
            (identity(&found.metadata), changed(&found.metadata)).hash(&mut hasher);
            files = files.wrapping_add(hasher.finish());
            Ok(())
        });
        if let Err(error) = walked {
            let mut hasher = DefaultHasher::new();
            error.to_string().hash(&mut hasher);
            files = hasher.finish();
        }
        files
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// The time of the last change as no program can set it: `cp -p` and `rsync -t` set the other.
#[cfg(unix)]
fn changed(metadata: &Metadata) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) {}

#[cfg(not(unix))]
fn changed(_: &Metadata) {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use notify::event::{CreateKind, Flag, ModifyKind, RemoveKind};
    use tokio::time::timeout;

    use super::*;

    /// A folder of a test's own, removed with it.
    struct Temp(PathBuf);

    impl Temp {
        fn new() -> Temp {
            static NUMBER: AtomicU64 = AtomicU64::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("cedarward-folder-{}-{number}", std::process::id()));
            fs::create_dir_all(path.join("policies")).unwrap();
            Temp(fs::canonicalize(path).unwrap())
        }

        fn root(&self) -> PathBuf {
            self.0.join("policies")
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.root().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn names(folder: &Folder) -> Vec<&str> {
        folder.0.keys().map(String::as_str).collect()
    }

    #[test]
    fn what_is_read() {
        let temp = Temp::new();
        let read_too = ["a.cedar", "b.cedarschema", "claims.yaml", "tests/c.yml", "tests/deep/er/d.json", "é.cedar"];
        let skipped =
            ["README.md", ".a.cedar", ".git/a.cedar", "a.cedar~", "#a.cedar#", ".a.cedar.swp", "cedar", "a.CEDAR"];
        for name in read_too.iter().chain(&skipped) {
            temp.write(name, name);
        }
        let folder = read(&temp.root()).unwrap();
        assert_eq!(names(&folder), read_too);
        for name in read_too {
            assert_eq!(folder.0[name], name.as_bytes());
        }
    }

    /// What is done to a folder with one file, and how the error begins.
    fn check_error(name: &str, make: impl Fn(&Temp), expected: &str) {
        let temp = Temp::new();
        temp.write("a.cedar", "a");
        make(&temp);
        let message = read(&temp.root()).expect_err(name).to_string();
        let message = message.replace(temp.0.to_str().unwrap(), "");
        assert!(message.starts_with(expected), "{name}: {message}");
    }

    #[test]
    fn what_cannot_be_read() {
        check_error("no folder", |temp| fs::remove_dir_all(temp.root()).unwrap(), "`/policies` cannot be read: ");
        let file = |temp: &Temp| {
            fs::remove_dir_all(temp.root()).unwrap();
            fs::write(temp.root(), "").unwrap();
        };
        check_error("a file", file, "`/policies` is no folder; ");
        check_error(
            "too deep",
            |temp| temp.write("1/2/3/4/5/6/7/8/9/a.cedar", ""),
            "`/policies/1/2/3/4/5/6/7/8/9` lies more",
        );
        let temp = Temp::new();
        temp.write("1/2/3/4/5/6/7/8/a.cedar", "just within");
        assert_eq!(read(&temp.root()).unwrap().0.len(), 1);
    }

    #[test]
    fn limits() {
        let temp = Temp::new();
        temp.write("a.cedar", "12345");
        temp.write("b.cedar", "12345");
        let limit = |bytes_max, files_max| match read_within(&temp.root(), bytes_max, files_max) {
            Ok(folder) => Ok(folder.0.len()),
            Err(FolderError::TooLarge { limit, .. }) => Err(limit),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(limit(10, 2), Ok(2));
        assert_eq!(limit(9, 2), Err(FolderLimit::Bytes));
        assert_eq!(limit(10, 1), Err(FolderLimit::Files));
    }

    #[cfg(unix)]
    mod links {
        use std::os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener};

        use super::*;

        #[test]
        fn within_the_folder_are_followed() {
            let temp = Temp::new();
            temp.write("real/a.cedar", "a");
            symlink("real/a.cedar", temp.root().join("b.cedar")).unwrap();
            temp.write(".hidden/c.cedar", "c");
            symlink(".hidden", temp.root().join("shown")).unwrap();
            symlink("/", temp.root().join(".nobody-looks")).unwrap();
            fs::write(temp.0.join("README.md"), "").unwrap();
            symlink("../README.md", temp.root().join("README.md")).unwrap();
            let folder = read(&temp.root()).unwrap();
            assert_eq!(names(&folder), ["b.cedar", "real/a.cedar", "shown/c.cedar"]);
            let other = temp.0.join("other");
            symlink("policies", &other).unwrap();
            assert_eq!(read(&other).unwrap(), folder, "the folder itself may be a link");
        }

        #[test]
        fn that_cannot_be_followed() {
            let link = |target: &'static str, name: &'static str| {
                move |temp: &Temp| {
                    fs::write(temp.0.join("outside.cedar"), "").unwrap();
                    fs::create_dir_all(temp.0.join("policies-too")).unwrap();
                    fs::create_dir_all(temp.root().join("inside")).unwrap();
                    symlink(target, temp.root().join(name)).unwrap();
                }
            };
            check_error(
                "a file outside",
                link("../outside.cedar", "b.cedar"),
                "`/policies/b.cedar` leads out of the folder; ",
            );
            check_error("a folder outside", link("../", "up"), "`/policies/up` leads out of the folder; ");
            check_error("a folder beside", link("../policies-too", "x"), "`/policies/x` leads out of the folder; ");
            check_error(
                "the folder itself",
                link(".", "again"),
                "`/policies/again` leads to a folder that is read already; ",
            );
            check_error("a file that is not there", link("gone", "b.cedar"), "`/policies/b.cedar` cannot be read: ");
            check_error("itself", link("b.cedar", "b.cedar"), "`/policies/b.cedar` cannot be read: ");
            check_error("a device", link("/dev/null", "b.cedar"), "`/policies/b.cedar` leads out of the folder; ");
            let socket = |temp: &Temp| drop(UnixListener::bind(temp.root().join("b.cedar")).unwrap());
            check_error("a socket", socket, "`/policies/b.cedar` is no regular file; ");
            let unreadable = |temp: &Temp| fs::write(temp.root().join(OsStr::from_bytes(b"\xff.cedar")), "").unwrap();
            check_error("not UTF-8", unreadable, "`/policies/\u{fffd}.cedar` has a name that is not UTF-8; ");
        }

        /// As a kubelet mounts a ConfigMap: a hidden folder a version, a hidden link to the current one.
        pub(super) fn configmap(temp: &Temp, version: &str) {
            temp.write(&format!("..{version}/a.cedar"), version);
            symlink(format!("..{version}"), temp.root().join("..data_tmp")).unwrap();
            fs::rename(temp.root().join("..data_tmp"), temp.root().join("..data")).unwrap();
            let shown = temp.root().join("a.cedar");
            if fs::symlink_metadata(&shown).is_err() {
                symlink("..data/a.cedar", shown).unwrap();
            }
        }

        #[test]
        fn of_a_configmap_are_followed() {
            let temp = Temp::new();
            for version in ["v1", "v2"] {
                configmap(&temp, version);
                assert_eq!(read(&temp.root()).unwrap().0, BTreeMap::from([("a.cedar".to_owned(), version.into())]));
            }
        }
    }

    #[test]
    fn which_events_matter() {
        let event = |kind, names: &[&str]| {
            names.iter().fold(Event::new(kind), |event, name| event.add_path(Path::new("/policies").join(name)))
        };
        let any = EventKind::Modify(ModifyKind::Any);
        let cases = [
            ("a write", event(any, &["a.cedar"]), true),
            ("a file", event(EventKind::Create(CreateKind::Any), &["a.cedar"]), true),
            ("a file less", event(EventKind::Remove(RemoveKind::Any), &["a.cedar"]), true),
            ("a swap", event(any, &["..data_tmp", "..data"]), true),
            ("a backup put in place", event(any, &["a.cedar~", "a.cedar"]), true),
            (
                "closed after writing",
                event(EventKind::Access(AccessKind::Close(AccessMode::Write)), &["a.cedar"]),
                true,
            ),
            ("events were lost", event(EventKind::Other, &[]).set_flag(Flag::Rescan), true),
            ("our own reading", event(EventKind::Access(AccessKind::Open(AccessMode::Any)), &["a.cedar"]), false),
            (
                "closed after reading",
                event(EventKind::Access(AccessKind::Close(AccessMode::Read)), &["a.cedar"]),
                false,
            ),
            ("a swap file", event(any, &[".a.cedar.swp"]), false),
            ("a backup", event(any, &["a.cedar~"]), false),
        ];
        for (name, event, expected) in cases {
            assert_eq!(matters(&event), expected, "{name}");
        }
    }

    /// Told, and what is read then is as expected; a tell in the middle of an edit is followed by another.
    async fn wait_for(name: &str, temp: &Temp, told: &mut tokio::sync::mpsc::Receiver<()>, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
        let seen = async {
            loop {
                told.recv().await.expect("the watcher lives");
                if read(&temp.root()).is_ok_and(|folder| folder.0 == expected) {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(20), seen).await.unwrap_or_else(|_| panic!("{name}: not told"));
    }

    async fn check_watch(pace: Pace) {
        let temp = Temp::new();
        temp.write("a.cedar", "1");
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let watcher = watch_at(&temp.root(), tell, pace).unwrap();
        let told = &mut told;

        temp.write("a.cedar", "2");
        wait_for("an edit", &temp, told, &[("a.cedar", "2")]).await;
        temp.write("a.cedar", "3");
        wait_for("an edit of the same length", &temp, told, &[("a.cedar", "3")]).await;
        temp.write("b.cedar", "b");
        wait_for("a new file", &temp, told, &[("a.cedar", "3"), ("b.cedar", "b")]).await;
        temp.write("a.cedar.new", "4");
        fs::rename(temp.root().join("a.cedar.new"), temp.root().join("a.cedar")).unwrap();
        wait_for("a file put in place of another", &temp, told, &[("a.cedar", "4"), ("b.cedar", "b")]).await;
        fs::remove_file(temp.root().join("b.cedar")).unwrap();
        wait_for("a file less", &temp, told, &[("a.cedar", "4")]).await;
        temp.write("c/d/e.yaml", "e");
        wait_for("a folder within", &temp, told, &[("a.cedar", "4"), ("c/d/e.yaml", "e")]).await;
        temp.write("c/d/e.yaml", "f");
        wait_for("an edit in it", &temp, told, &[("a.cedar", "4"), ("c/d/e.yaml", "f")]).await;

        fs::remove_dir_all(temp.root()).unwrap();
        temp.write("a.cedar", "5");
        wait_for("the folder made again at once", &temp, told, &[("a.cedar", "5")]).await;
        temp.write("a.cedar", "6");
        wait_for("an edit in the new folder", &temp, told, &[("a.cedar", "6")]).await;
        fs::remove_dir_all(temp.root()).unwrap();
        timeout(Duration::from_secs(20), told.recv()).await.expect("told that the folder is gone").unwrap();
        temp.write("a.cedar", "7");
        wait_for("the folder made again later", &temp, told, &[("a.cedar", "7")]).await;

        #[cfg(unix)]
        {
            fs::remove_file(temp.root().join("a.cedar")).unwrap();
            for version in ["v1", "v2", "v3"] {
                links::configmap(&temp, version);
                wait_for(version, &temp, told, &[("a.cedar", version)]).await;
            }
        }

        drop(watcher);
        let end = async { while told.recv().await.is_some() {} };
        timeout(Duration::from_secs(20), end).await.expect("the watch ends with its watcher");
    }

    #[tokio::test]
    async fn no_edit_is_missed() {
        check_watch(Pace { quiet: Duration::from_millis(20), poll: Duration::from_millis(500), events: true }).await;
    }

    #[tokio::test]
    async fn no_edit_is_missed_without_events() {
        check_watch(Pace { quiet: Duration::from_millis(20), poll: Duration::from_millis(20), events: false }).await;
    }

    /// No test waits for the second fingerprint.
    const EVENTS_ALONE: Pace = Pace { quiet: Duration::from_millis(20), poll: Duration::from_secs(600), events: true };

    #[tokio::test]
    async fn events_alone_tell_of_an_edit_also_in_a_folder_made_again() {
        let temp = Temp::new();
        temp.write("a.cedar", "1");
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let _watcher = watch_at(&temp.root(), tell, EVENTS_ALONE).unwrap();
        temp.write("a.cedar", "2");
        wait_for("an edit", &temp, &mut told, &[("a.cedar", "2")]).await;
        fs::remove_dir_all(temp.root()).unwrap();
        temp.write("a.cedar", "3");
        wait_for("a folder made again", &temp, &mut told, &[("a.cedar", "3")]).await;
        temp.write("a.cedar", "4");
        wait_for("an edit in it", &temp, &mut told, &[("a.cedar", "4")]).await;
        fs::remove_dir_all(temp.root()).unwrap();
        let gone = async {
            while read(&temp.root()).is_ok() || told.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), gone).await.expect("told that it is gone");
        temp.write("a.cedar", "5");
        wait_for("a folder made again later", &temp, &mut told, &[("a.cedar", "5")]).await;
    }

    #[tokio::test]
    async fn an_event_is_told_though_the_fingerprint_is_the_same() {
        let temp = Temp::new();
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let watcher = watch_at(&temp.root(), tell, EVENTS_ALONE).unwrap();
        watcher.notes.send(Note::Changed).unwrap();
        timeout(Duration::from_secs(20), told.recv()).await.expect("told").unwrap();
    }

    #[test]
    fn a_burst_without_an_end_is_told_all_the_same() {
        let temp = Temp::new();
        let (notes, inbox) = mpsc::channel();
        let pace = Pace { quiet: Duration::from_secs(600), poll: Duration::from_millis(20), events: false };
        let path = temp.root();
        let watch = Watch { last: Print::of(&path), path, pace, notes: notes.clone(), events: None };
        notes.send(Note::Changed).unwrap();
        assert_eq!(watch.burst(&inbox), Some(true));
    }

    #[test]
    fn what_cannot_be_watched() {
        let (tell, _told) = tokio::sync::mpsc::channel(1);
        let gone = watch(Path::new("/no/such/folder"), tell).unwrap_err();
        assert!(matches!(gone, FolderError::Unreadable { .. }), "{gone}");
    }
}
