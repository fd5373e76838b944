"use strict";
{
  const zoom = document.getElementById("zoom");
  const timeline = document.querySelector(".timeline");
  zoom.addEventListener("input", () => {
    const middle = (timeline.scrollLeft + timeline.clientWidth / 2) / timeline.scrollWidth;
    timeline.style.setProperty("--zoom", 2 ** zoom.value);
    timeline.scrollLeft = middle * timeline.scrollWidth - timeline.clientWidth / 2;
  });
  const reveal = () => {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const folded = row && row.closest("details");
    if (folded && !folded.open) {
      folded.open = true;
      row.scrollIntoView({ block: "center" });
    }
  };
  addEventListener("hashchange", reveal);
  reveal();
}
