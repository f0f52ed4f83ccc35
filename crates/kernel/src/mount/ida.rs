//! Numbers handed out lowest first and taken back: `struct ida` (`lib/idr.c`). Mount ids and peer group ids come from
//! one each, so that both show the numbers that Linux would show.

use std::collections::BTreeSet;

/// An allocator of numbers.
pub(super) struct Ida {
    /// Numbers from here on have never been out, or everything above them is back as well.
    next: u32,
    /// Numbers below `next` that are back.
    free: BTreeSet<u32>,
}

impl Ida {
    /// Numbers from `first` on.
    pub(super) fn new(first: u32) -> Ida {
        Ida { next: first, free: BTreeSet::new() }
    }

    /// The lowest free number: `ida_alloc_min`.
    pub(super) fn alloc(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    /// Takes a number back: `ida_free`.
    pub(super) fn free(&mut self, id: u32) {
        self.free.insert(id);
        while self.next > 0 && self.free.remove(&(self.next - 1)) {
            self.next -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ida;

    #[test]
    fn the_lowest_free_number_comes_next() {
        let mut ida = Ida::new(1);
        assert_eq!([ida.alloc(), ida.alloc(), ida.alloc(), ida.alloc()], [1, 2, 3, 4]);
        ida.free(2);
        ida.free(1);
        assert_eq!([ida.alloc(), ida.alloc(), ida.alloc()], [1, 2, 5]);
        for id in 1..=5 {
            ida.free(id);
        }
        assert!(ida.free.is_empty());
        assert_eq!(ida.alloc(), 1);
    }
}
