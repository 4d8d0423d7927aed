// Shows a page of training/ as slides: what is above the first heading of level 2 is the first slide, and each such heading begins another.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const page = document.querySelector(".md-content__inner");
  const title = page && page.querySelector("h1");
  if (!title || !location.pathname.includes("/training/")) return;
  const slides = [];
  for (const node of [...page.children]) {
    if (!slides.length || node.tagName === "H2") {
      const slide = document.createElement("section");
      slide.className = "slide";
      page.insertBefore(slide, node);
      slides.push(slide);
    }
    slides.at(-1).append(node);
  }
  const number = document.createElement("div");
  number.className = "slide-number";
  document.body.append(number);
  let at = 0;
  const show = (to) => {
    at = Math.max(0, Math.min(slides.length - 1, to));
    slides.forEach((slide, index) => slide.classList.toggle("shown", index === at));
    number.textContent = `${at + 1} / ${slides.length}`;
    scrollTo(0, 0);
  };
  const toggle = (on) => {
    document.body.classList.toggle("slides", on);
    history.replaceState(null, "", on ? "?slides" : location.pathname);
    show(at);
  };
  const button = document.createElement("button");
  button.className = "slides-button";
  button.type = "button";
  button.textContent = "Slides";
  button.addEventListener("click", () => toggle(true));
  title.before(button);
  addEventListener("keydown", (event) => {
    if (!document.body.classList.contains("slides")) return;
    const step = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }[event.key];
    if (event.key === "Escape") toggle(false);
    else if (event.key === "Home") show(0);
    else if (event.key === "End") show(slides.length - 1);
    else if (step) show(at + step);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
  addEventListener("click", (event) => {
    if (document.body.classList.contains("slides") && !event.target.closest("a, button, summary, pre")) show(at + 1);
  });
  if (location.search === "?slides") toggle(true);
});
