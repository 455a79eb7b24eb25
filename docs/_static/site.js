// Sphinx fetches the pages it has found to quote from them; a browser forbids that to a page opened from disk.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";

document.addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.ariaLevel = 2;
  // The arguments of a signature are lines, no list of definitions.
  for (const part of document.querySelectorAll(".sig dl, .sig dd")) part.role = "presentation";
  // What scrolls sideways can be reached and scrolled by keyboard.
  for (const box of document.querySelectorAll(".math, .table-wrapper, .diagram")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
});
