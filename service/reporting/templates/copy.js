// Copies the text that a button names, of our pages and of reports alike.
"use strict";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button === null) return;
  const place = document.getElementById(button.dataset.copy);
  // Selected first: on an address that is not secure and from a file there is no clipboard, but what is selected can be copied
  getSelection().selectAllChildren(place);
  let copied = true;
  try { await navigator.clipboard.writeText(place.textContent); } catch { copied = document.execCommand("copy"); }
  button.textContent = copied ? "Copied" : "Press Ctrl+C";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});
