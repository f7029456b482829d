//! What is known of the site so far: its pages, their links, and what is still to be done.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Context;

use crate::tasks::{Part, Work};

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) url: String,
    /// How many links lie between it and the first page.
    pub(crate) depth: usize,
    /// The pages it links to.
    pub(crate) links: Vec<usize>,
    /// Links to other hosts, or beyond the bound on pages.
    pub(crate) links_left: usize,
    pub(crate) picture: Option<Vec<u8>>,
    /// Why there is no picture or no links.
    pub(crate) failure: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Site {
    /// Scheme, host and port, which all pages share.
    origin: String,
    bound: usize,
    pages: Vec<Page>,
    by_url: BTreeMap<String, usize>,
    to_do: VecDeque<Work>,
    under_way: usize,
}

impl Page {
    pub(crate) fn summary(&self) -> String {
        match &self.failure {
            None => format!("page {} links to {} pages", self.url, self.links.len()),
            Some(why) => format!("page {} failed: {why}", self.url),
        }
    }
}

impl Site {
    pub(crate) fn new(url: &str, bound: usize) -> anyhow::Result<Self> {
        let url = reqwest::Url::parse(url).with_context(|| format!("{url:?} is not a URL"))?;
        let mut site = Self {
            origin: url.origin().ascii_serialization(),
            bound: bound.max(1),
            pages: Vec::new(),
            by_url: BTreeMap::new(),
            to_do: VecDeque::new(),
            under_way: 0,
        };
        site.add(url.as_str(), 0);
        Ok(site)
    }

    fn add(&mut self, url: &str, depth: usize) -> usize {
        let page = self.pages.len();
        self.pages.push(Page {
            url: url.to_owned(),
            depth,
            links: Vec::new(),
            links_left: 0,
            picture: None,
            failure: None,
        });
        self.by_url.insert(url.to_owned(), page);
        for part in [Part::Crawl, Part::Render] {
            self.to_do.push_back(Work { part, page });
        }
        page
    }

    pub(crate) fn pages(&self) -> &[Page] {
        &self.pages
    }

    pub(crate) fn url(&self, page: usize) -> &str {
        &self.pages[page].url
    }

    /// Takes the next thing to do; it counts as under way until it is reported done or failed.
    pub(crate) fn next(&mut self) -> Option<Work> {
        let work = self.to_do.pop_front()?;
        self.under_way += 1;
        Some(work)
    }

    /// Whether nothing is to be done any more.
    pub(crate) fn is_done(&self) -> bool {
        self.to_do.is_empty() && self.under_way == 0
    }

    /// Enters a page's links. Returns whether that brought new work.
    pub(crate) fn crawled<'a>(
        &mut self,
        page: usize,
        links: impl Iterator<Item = &'a str>,
    ) -> bool {
        self.under_way -= 1;
        for link in links {
            let ours = link
                .strip_prefix(&self.origin)
                .is_some_and(|path| path.starts_with('/'));
            let target = match self.by_url.get(link) {
                Some(known) => *known,
                None if ours && self.pages.len() < self.bound => {
                    self.add(link, self.pages[page].depth + 1)
                }
                None => {
                    self.pages[page].links_left += 1;
                    continue;
                }
            };
            self.pages[page].links.push(target);
        }
        !self.to_do.is_empty()
    }

    pub(crate) fn rendered(&mut self, page: usize, picture: Vec<u8>) {
        self.under_way -= 1;
        self.pages[page].picture = Some(picture);
    }

    pub(crate) fn failed(&mut self, work: Work, why: &str) {
        self.under_way -= 1;
        self.pages[work.page].failure = Some(why.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::Site;
    use crate::tasks::Part;

    #[test]
    fn pages_are_crawled_once_and_other_hosts_are_left_alone() {
        let mut site = Site::new("http://host:80/a", 3).unwrap();
        let first = [site.next().unwrap(), site.next().unwrap()];
        assert_eq!(first.map(|work| work.part), [Part::Crawl, Part::Render]);
        let links = [
            "http://host/b",
            "http://host/a",
            "http://hostile/c",
            "http://host/d",
            "http://host/e",
        ];
        assert!(site.crawled(0, links.into_iter()));
        assert_eq!(site.pages()[0].links, [1, 0, 2]);
        assert_eq!(site.pages()[0].links_left, 2);
        assert_eq!(site.pages()[1].depth, 1);
        site.rendered(0, Vec::new());
        while let Some(work) = site.next() {
            assert!(!site.is_done());
            site.failed(work, "gone");
        }
        assert!(site.is_done());
    }
}
