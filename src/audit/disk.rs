//! What the log asks of a disk, and nothing more: a test puts one in its place that forgets, tears and fails.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A directory of files.
pub trait Disk: Send {
    /// All names, in order.
    ///
    /// # Errors
    /// The system's, as all below.
    fn names(&self) -> io::Result<Vec<String>>;

    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Writes behind what the file has. It may be lost, in part too, until [`sync`](Self::sync).
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes what was written durable. Where it fails nothing is known of what was written since it last succeeded.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Cuts the file; durable with the next [`sync`](Self::sync).
    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()>;

    /// The file has these bytes or, where this fails, those that it had. Durable.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;

    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// When it was written last.
    fn modified(&self, name: &str) -> io::Result<SystemTime>;

    /// Whether what is written to the file would be found under its name.
    fn is_there(&mut self, name: &str) -> io::Result<()>;
}

/// A directory of the operating system's.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Files that are written.
    open: HashMap<String, File>,
    /// Held as long as this lives.
    _lock: File,
}

impl Directory {
    /// Makes it where there is none, and keeps other processes out of it.
    ///
    /// # Errors
    /// Another process writes there; the system's.
    pub fn new(path: &Path) -> io::Result<Directory> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another process writes this log"),
            TryLockError::Error(error) => error,
        })?;
        Ok(Directory { path: path.to_owned(), open: HashMap::new(), _lock: lock })
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        if !self.open.contains_key(name) {
            let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
            // Few are ever written: one segment, and the one before it.
            self.open.clear();
            self.open.insert(name.to_owned(), file);
        }
        self.open.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<io::Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = vec![];
        File::open(self.path.join(name))?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(name)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.file(name)?.set_len(length)
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.path.join(format!("{name}.new"));
        let created = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside);
        let written = created.and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            // Half a file must not take the room that others lack.
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        fs::rename(&beside, self.path.join(name))?;
        self.open.remove(name);
        File::open(&self.path)?.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        fs::remove_file(self.path.join(name))
    }

    fn modified(&self, name: &str) -> io::Result<SystemTime> {
        fs::metadata(self.path.join(name))?.modified()
    }

    fn is_there(&mut self, name: &str) -> io::Result<()> {
        let found = fs::metadata(self.path.join(name))?.ino();
        match self.file(name)?.metadata()?.ino() == found {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} was replaced"))),
        }
    }
}
