// Turns two pictures side by side into one with a border that moves; without it they stay as they are.
for (const figure of document.querySelectorAll(".slider")) {
  const range = figure.querySelector("input");
  const move = () => {
    figure.style.setProperty("--border", range.value + "%");
    range.setAttribute("aria-valuetext", range.value + " % original");
  };
  range.addEventListener("input", move);
  figure.classList.add("slides");
  move();
}
