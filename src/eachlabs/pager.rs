//! Reads a list page by page.

use super::error::ApiError;
use super::responses::Page;

/// The position in a list. A page whose response is too large is requested again with fewer rows. A row that is too large
/// alone is skipped.
#[derive(Debug)]
pub(crate) struct Pager {
    rows_per_page: usize,
    offset: usize,
    /// Rows of the next request.
    limit: usize,
    requests_left: usize,
}

impl Pager {
    /// At most `max_requests` requests are sent.
    pub(crate) fn new(rows_per_page: usize, max_requests: usize) -> Self {
        Self { rows_per_page, offset: 0, limit: rows_per_page, requests_left: max_requests }
    }

    /// The next page. `request` requests the page with an offset and a limit. `None` once all requests are used.
    ///
    /// # Errors
    /// The error of `request`. The next call requests the same page.
    pub(crate) async fn next<T, F>(
        &mut self,
        request: impl Fn(usize, usize) -> F,
    ) -> Result<Option<Page<T>>, ApiError>
    where
        F: Future<Output = Result<Page<T>, ApiError>>,
    {
        let mut skipped = 0;
        while self.requests_left > 0 {
            self.requests_left -= 1;
            match request(self.offset, self.limit).await {
                Err(ApiError::TooLarge { .. }) if self.limit > 1 => self.limit = self.limit.div_ceil(4),
                Err(error @ ApiError::TooLarge { .. }) => {
                    tracing::warn!("a row of a list of each::labs is skipped: {error}");
                    skipped += 1;
                    (self.offset, self.limit) = (self.offset + 1, self.rows_per_page);
                }
                page => {
                    let page = page?;
                    (self.offset, self.limit) = (self.offset + page.size, self.rows_per_page);
                    return Ok(Some(Page { size: page.size + skipped, ..page }));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn only_a_row_that_is_too_large_alone_is_skipped() {
        // A response holds 60 bytes. Row 7 alone has 61 bytes.
        let sizes: Vec<usize> = (0..20).map(|n| if n == 7 { 61 } else { 10 }).collect();
        let request = |offset: usize, limit: usize| {
            let rows: Vec<_> = (offset..sizes.len()).take(limit).collect();
            if rows.iter().map(|row| sizes[*row]).sum::<usize>() > 60 {
                return ready(Err(ApiError::TooLarge { max_bytes: 60 }));
            }
            ready(Ok(Page { size: rows.len(), is_last: rows.len() < limit, rows }))
        };
        let (mut pager, mut rows, mut unusable) = (Pager::new(16, 100), Vec::new(), 0);
        while let Some(page) = pager.next(&request).await.unwrap() {
            unusable += page.unusable();
            rows.extend(page.rows);
            if page.is_last {
                break;
            }
        }
        assert_eq!(rows, (0..20).filter(|n| *n != 7).collect::<Vec<_>>());
        assert_eq!(unusable, 1);
    }

    #[tokio::test]
    async fn requests_are_limited_and_a_page_is_requested_again_after_an_error() {
        let mut pager = Pager::new(2, 3);
        let page = |offset, _| ready(Ok(Page { rows: vec![offset], size: 2, is_last: false }));
        let first = pager.next(page).await.unwrap().unwrap();
        let failed = pager.next(|_, _| ready(Err::<Page<usize>, _>(ApiError::TimedOut))).await;
        let second = pager.next(page).await.unwrap().unwrap();
        assert!(failed.is_err() && pager.next(page).await.unwrap().is_none());
        assert_eq!((first.rows, second.rows), (vec![0], vec![2]));
    }
}
