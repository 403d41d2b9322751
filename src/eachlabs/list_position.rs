//! The position in a list that is read page by page.

/// The part of a list that is requested next.
#[derive(Debug)]
pub(crate) struct ListPosition {
    pub(crate) offset: usize,
    pub(crate) limit: usize,
    page: usize,
}

impl ListPosition {
    /// The first page, of `page` rows.
    pub(crate) fn new(page: usize) -> Self {
        Self { offset: 0, limit: page, page }
    }

    /// Moves behind a page with `size` rows.
    pub(crate) fn advance(&mut self, size: usize) {
        (self.offset, self.limit) = (self.offset + size, self.page);
    }

    /// After [`ApiError::TooLarge`](super::ApiError::TooLarge): fewer rows are requested. Returns true if a single row is too
    /// large: it is skipped.
    pub(crate) fn shrink(&mut self) -> bool {
        let is_one_row = self.limit <= 1;
        if is_one_row {
            self.advance(1);
        } else {
            self.limit = self.limit.div_ceil(4);
        }
        is_one_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_too_large_is_read_in_parts_and_a_row_that_is_too_large_is_skipped() {
        let mut at = ListPosition::new(100);
        let requested = |at: &ListPosition| (at.offset, at.limit);
        at.advance(100);
        for limit in [25, 7, 2, 1] {
            assert!(!at.shrink());
            assert_eq!(requested(&at), (100, limit));
        }
        assert!(at.shrink());
        assert_eq!(requested(&at), (101, 100));
    }
}
