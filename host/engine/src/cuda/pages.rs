//! Which sequence owns which pages of the key-value caches. All attentions of a model use the same page numbers, each in
//! its own cache, so one table serves a session.

use std::collections::BTreeMap;

/// A sequence's place in a [`PageTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PagesId(u64);

/// The pool has too few free pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} more pages of the key-value cache are needed, but {free} of {total} are free")]
pub(crate) struct OutOfPages {
    pub(crate) wanted: usize,
    pub(crate) free: usize,
    pub(crate) total: usize,
}

#[derive(Debug, Default)]
struct Owned {
    pages: Vec<u32>,
    tokens: usize,
}

/// A pool of pages and their owners.
#[derive(Debug)]
pub(crate) struct PageTable {
    page_tokens: usize,
    total: usize,
    /// The last is given out next: pages used a moment ago first.
    free: Vec<u32>,
    sequences: BTreeMap<PagesId, Owned>,
    next: u64,
}

impl PageTable {
    /// A pool of `pages` pages of `page_tokens` tokens.
    ///
    /// # Panics
    /// When a page has no tokens, or there are 2^32 pages.
    pub(crate) fn new(pages: usize, page_tokens: usize) -> Self {
        assert!(page_tokens > 0, "a page of no tokens");
        let last = u32::try_from(pages).expect("page numbers have 32 bits");
        Self { page_tokens, total: pages, free: (0..last).rev().collect(), sequences: BTreeMap::new(), next: 0 }
    }

    /// Adds a sequence without tokens.
    pub(crate) fn start(&mut self) -> PagesId {
        self.next += 1;
        let id = PagesId(self.next);
        self.sequences.insert(id, Owned::default());
        id
    }

    /// Makes room for `tokens` more tokens: all of them, or none.
    ///
    /// # Errors
    /// When too few pages are free.
    ///
    /// # Panics
    /// When the sequence has ended.
    pub(crate) fn extend(&mut self, id: PagesId, tokens: usize) -> Result<(), OutOfPages> {
        let owned = self.sequences.get_mut(&id).expect("the sequence has not ended");
        let wanted = (owned.tokens + tokens).div_ceil(self.page_tokens) - owned.pages.len();
        if wanted > self.free.len() {
            return Err(OutOfPages { wanted, free: self.free.len(), total: self.total });
        }
        owned.pages.extend(self.free.drain(self.free.len() - wanted..).rev());
        owned.tokens += tokens;
        Ok(())
    }

    /// Forgets a sequence; its pages are free again. An ended one is ignored.
    pub(crate) fn end(&mut self, id: PagesId) {
        if let Some(owned) = self.sequences.remove(&id) {
            self.free.extend(owned.pages.into_iter().rev());
        }
    }

    /// Tokens of a sequence; none if it has ended.
    pub(crate) fn tokens(&self, id: PagesId) -> usize {
        self.sequences.get(&id).map_or(0, |owned| owned.tokens)
    }

    /// Pages of a sequence, in the order of its tokens; none if it has ended.
    pub(crate) fn pages(&self, id: PagesId) -> &[u32] {
        self.sequences.get(&id).map_or(&[], |owned| &owned.pages)
    }

    /// Most pages that one of `ids` has: a bound for a launch.
    pub(crate) fn most_pages(&self, ids: &[PagesId]) -> usize {
        ids.iter().map(|id| self.pages(*id).len()).max().unwrap_or(0)
    }

    /// The block table `[ids, width]`; places behind a sequence's last page hold `u32::MAX`, which is no page.
    ///
    /// # Panics
    /// When a sequence has more than `width` pages.
    pub(crate) fn block_table(&self, ids: &[PagesId], width: usize) -> Vec<u32> {
        let mut table = vec![u32::MAX; ids.len() * width];
        for (row, id) in table.chunks_exact_mut(width.max(1)).zip(ids) {
            let pages = self.pages(*id);
            row[..pages.len()].copy_from_slice(pages);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_grows_by_whole_pages_and_comes_back() {
        let mut table = PageTable::new(4, 64);
        let (a, b) = (table.start(), table.start());
        table.extend(a, 64).unwrap();
        assert_eq!((table.pages(a), table.free.len()), (&[0][..], 3));
        table.extend(a, 1).unwrap();
        table.extend(b, 3).unwrap();
        assert_eq!((table.pages(a), table.pages(b)), (&[0, 1][..], &[2][..]));
        assert_eq!((table.tokens(a), table.tokens(b), table.most_pages(&[b, a])), (65, 3, 2));
        assert_eq!(table.block_table(&[b, a], 3), [2, u32::MAX, u32::MAX, 0, 1, u32::MAX]);
        table.extend(b, 61).unwrap();
        assert_eq!(table.free.len(), 1);

        // Nothing changes when there is not enough room.
        assert_eq!(table.extend(b, 65), Err(OutOfPages { wanted: 2, free: 1, total: 4 }));
        assert_eq!((table.tokens(b), table.pages(b), table.free.len()), (64, &[2][..], 1));
        table.end(a);
        table.end(a);
        assert_eq!((table.free.len(), table.tokens(a), table.pages(a)), (3, 0, &[][..]));
        table.extend(b, 65).unwrap();
        assert_eq!(table.pages(b), [2, 0, 1]);
    }

    #[test]
    fn no_page_is_owned_twice() {
        let mut state = 7u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for (pages, page_tokens) in [(1, 1), (7, 4), (50, 64)] {
            let mut table = PageTable::new(pages, page_tokens);
            let mut live: Vec<(PagesId, usize)> = Vec::new();
            let (mut full, mut ended) = (0, 0);
            for _ in 0..5000 {
                match random(8) {
                    0 => live.push((table.start(), 0)),
                    1 if !live.is_empty() => {
                        let (id, _) = live.swap_remove(random(live.len()));
                        table.end(id);
                        ended += 1;
                    }
                    _ if !live.is_empty() => {
                        let index = random(live.len());
                        let tokens = random(3 * page_tokens);
                        match table.extend(live[index].0, tokens) {
                            Ok(()) => live[index].1 += tokens,
                            Err(error) => {
                                assert!(error.wanted > error.free);
                                full += 1;
                            }
                        }
                    }
                    _ => {}
                }
                let mut owners = vec![0; pages];
                for (id, tokens) in &live {
                    assert_eq!(table.tokens(*id), *tokens);
                    assert_eq!(table.pages(*id).len(), tokens.div_ceil(page_tokens));
                    table.pages(*id).iter().for_each(|page| owners[*page as usize] += 1);
                }
                assert!(owners.iter().all(|owners| *owners <= 1), "{owners:?}");
                assert_eq!(owners.iter().sum::<usize>() + table.free.len(), pages);
            }
            assert!(full > 10 && ended > 100, "the test must reach both: {full}, {ended}");
        }
    }
}
