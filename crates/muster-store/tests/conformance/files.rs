//! Files.

use crate::for_each_backend;
use crate::stage::*;
use bytes::Bytes;
use muster_core::file::FileInfo;
use muster_core::limits::FILE_CHUNK_BYTES;
use muster_store::cluster::Retention;
use muster_store::{ClusterStore, ErrorKind, FileStore};

fn info(name: &str, bytes: u64, content: i64, ms: i64) -> FileInfo {
    FileInfo { service: "s".into(), name: name.into(), bytes, sha256: [3; 32], modified: at(ms), content }
}

impl Stage {
    /// Puts a file of `pieces`.
    async fn file(&self, name: &str, pieces: &[Bytes], ms: i64) -> FileInfo {
        let content = self.store.file_begin(at(ms)).await.unwrap();
        for (index, piece) in (0..).zip(pieces) {
            self.store.file_chunk_put(content, index, piece.clone()).await.unwrap();
        }
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        let info = info(name, bytes, content, ms);
        self.store.file_finish(info.clone(), &cause()).await.unwrap();
        info
    }

    async fn sweep_contents(&self, ms: i64) -> u64 {
        let retention = Retention {
            clones_before: at(-1),
            contacts_before: at(-1),
            contents_before: at(ms),
            broadcasts_before: at(-1),
        };
        self.store.retention_sweep(retention, 1000).await.unwrap()
    }
}

for_each_backend! {
    async fn a_file_is_stored_read_and_deleted(stage) {
        let pieces = [Bytes::from(vec![1; FILE_CHUNK_BYTES]), Bytes::from_static(b"the end")];
        let info = stage.file("a/../b c", &pieces, 5).await;
        assert_eq!(stage.store.file_get("s", "a/../b c").await.unwrap(), Some(info.clone()));
        for (index, piece) in (0..).zip(&pieces) {
            assert_eq!(stage.store.file_chunk_get(info.content, index).await.unwrap().as_ref(), Some(piece));
        }
        assert_eq!(stage.store.file_chunk_get(info.content, 2).await.unwrap(), None);
        assert_eq!(stage.store.file_chunk_get(info.content + 9, 0).await.unwrap(), None);
        assert_eq!(stage.store.file_get("t", "a/../b c").await.unwrap(), None);
        assert!(stage.store.file_delete("s", "a/../b c", at(6), &cause()).await.unwrap());
        assert!(!stage.store.file_delete("s", "a/../b c", at(6), &cause()).await.unwrap());
        assert!(!stage.store.file_delete("unknown", "x", at(6), &cause()).await.unwrap());
        assert_eq!(stage.store.file_get("s", "a/../b c").await.unwrap(), None);
    }

    async fn an_empty_file_has_no_pieces(stage) {
        let info = stage.file("empty", &[], 1).await;
        assert_eq!(stage.store.file_get("s", "empty").await.unwrap(), Some(info));
    }

    async fn a_file_that_is_put_again_leaves_the_old_content_for_a_while(stage) {
        let old = stage.file("f", &[Bytes::from_static(b"old")], 1_000).await;
        let new = stage.file("f", &[Bytes::from_static(b"newer")], 5_000).await;
        assert_eq!(stage.store.file_get("s", "f").await.unwrap(), Some(new.clone()));
        assert_eq!(stage.sweep_contents(5_000).await, 0);
        assert_eq!(stage.store.file_chunk_get(old.content, 0).await.unwrap().unwrap(), "old");
        assert_eq!(stage.sweep_contents(5_001).await, 2);
        assert_eq!(stage.sweep_contents(5_001).await, 0);
        assert_eq!(stage.store.file_chunk_get(old.content, 0).await.unwrap(), None);
        assert_eq!(stage.store.file_chunk_get(new.content, 0).await.unwrap().unwrap(), "newer");
        stage.store.file_delete("s", "f", at(7_000), &cause()).await.unwrap();
        assert_eq!(stage.sweep_contents(7_000).await, 0);
        assert_eq!(stage.sweep_contents(7_001).await, 2);
    }

    async fn what_was_never_finished_goes(stage) {
        let content = stage.store.file_begin(at(1)).await.unwrap();
        for index in 0..100 {
            stage.store.file_chunk_put(content, index, Bytes::from_static(b"x")).await.unwrap();
        }
        let mut deleted = 0;
        loop {
            let some = stage.sweep_contents(2).await;
            deleted += some;
            if some == 0 { break }
        }
        assert_eq!(deleted, 101);
        let late = stage.store.file_chunk_put(content, 100, Bytes::from_static(b"x")).await;
        assert_eq!(late.unwrap_err().kind(), ErrorKind::NotFound);
    }

    async fn only_a_whole_file_gets_its_name(stage) {
        let content = stage.store.file_begin(at(1)).await.unwrap();
        let put = async |index, bytes: &'static [u8]| stage.store.file_chunk_put(content, index, Bytes::from_static(bytes)).await;
        put(0, b"ab").await.unwrap();
        put(2, b"c").await.unwrap();
        let finish = async |bytes| stage.store.file_finish(info("f", bytes, content, 2), &cause()).await;
        assert_eq!(finish(3).await.unwrap_err().kind(), ErrorKind::Invalid, "piece 1 is missing");
        put(1, b"x").await.unwrap();
        put(1, b"y").await.unwrap();
        assert_eq!(finish(5).await.unwrap_err().kind(), ErrorKind::Invalid, "the length is wrong");
        assert_eq!(stage.store.file_get("s", "f").await.unwrap(), None);
        finish(4).await.unwrap();
        finish(4).await.unwrap();
        assert_eq!(put(3, b"z").await.unwrap_err().kind(), ErrorKind::NotFound, "it is finished");
        let other = info("g", 4, content, 2);
        assert_eq!(stage.store.file_finish(other, &cause()).await.unwrap_err().kind(), ErrorKind::NotFound);
        let long = Bytes::from(vec![0; FILE_CHUNK_BYTES + 1]);
        let long = stage.store.file_chunk_put(content, 4, long).await;
        assert_eq!(long.unwrap_err().kind(), ErrorKind::Invalid);
    }

    async fn pages_of_files_are_in_the_order_of_bytes(stage) {
        let names = ["B", "a", "a/b", "ab", "b", "~", "É", "é"];
        for name in names.iter().rev() {
            stage.file(name, &[], 1).await;
        }
        let mut sorted = names.map(str::to_owned);
        sorted.sort();
        for limit in [1, 3, 100] {
            let mut seen: Vec<String> = Vec::new();
            let mut after = None;
            loop {
                let page = stage.store.file_page(Some("s"), after, limit).await.unwrap();
                let Some(last) = page.last() else { break };
                after = Some((last.service.clone(), last.name.clone()));
                seen.extend(page.into_iter().map(|info| info.name));
            }
            assert_eq!(seen, sorted);
        }
        assert_eq!(stage.store.file_page(None, None, 100).await.unwrap().len(), names.len());
        assert_eq!(stage.store.file_page(Some("t"), None, 100).await.unwrap(), []);
    }
}
