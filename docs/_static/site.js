// Sphinx fetches the pages it has found to quote from them; a browser forbids that to a page opened from disk.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";
