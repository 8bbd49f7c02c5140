"use strict";
(() => {
  document.documentElement.classList.add("live");
  const find = (id) => document.getElementById(id);
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const store = JSON.parse(find("photos").textContent);

  // Tables: a head that is pressed sorts by its column, a second time the other way.
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : cell.dataset.value;
  };
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numbers = [Number(a), Number(b)];
    return numbers.some(Number.isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const filled = (row) => value(row, column) !== "";
        const rows = [...body.rows].sort((one, other) => {
          const order = compare(value(one, column), value(other, column));
          return down && filled(one) && filled(other) ? -order : order;
        });
        body.append(...rows);
      });
    });
  }

  // The confusion matrix: a cell that is pressed shows its photographs.
  const matrix = find("matrix");
  const show = (button, chosen) => {
    const pressed = button.getAttribute("aria-pressed") === "true";
    for (const each of matrix.querySelectorAll("button")) each.setAttribute("aria-pressed", "false");
    find("cell").hidden = pressed;
    if (pressed) return;
    button.setAttribute("aria-pressed", "true");
    const [label, answer] = [Number(button.dataset.true), Number(button.dataset.predicted)];
    const photos = store.photos.filter((p) => p.true === label && p.predicted === answer);
    const count = store.matrix[label][answer];
    const said = label === answer ? "classified rightly" : `taken for ${store.names[answer]}`;
    find("cell-title").textContent = `${store.names[label]}, ${said}: ${count.toLocaleString("en")}`;
    find("cell-photos").replaceChildren(...photos.filter((p) => p.src).map((p) => make("li", {},
      make("img", { src: p.src, alt: p.path, title: p.path, width: 96, height: 96 }),
      make("span", { textContent: p.probability.toFixed(4), title: "probability of the answer" }))));
    find("cell-paths").replaceChildren(...photos.filter((p) => !p.src).map((p) => make("li", {},
      make("code", { textContent: p.path, className: "name" }), ` ${p.probability.toFixed(4)}`)));
    const rest = count - photos.length;
    find("cell-rest").textContent = rest > 0 ? `${rest.toLocaleString("en")} more stand in predictions.csv` : "";
    if (!chosen) return;
    find("cell-title").focus({ preventScroll: true });
    find("cell").scrollIntoView({ block: "nearest" });
  };
  if (matrix) {
    matrix.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) show(button, true);
    });
    const count = (button) => store.matrix[button.dataset.true][button.dataset.predicted];
    const wrong = [...matrix.querySelectorAll("[class^=wrong] button")];
    const first = wrong.reduce((most, each) => (most && count(most) >= count(each) ? most : each), null);
    if (first) show(first, false);  // what is confused most often
  }

  // Mistakes: filtered by the pair of classes; a path is copied by its button.
  const cards = [...document.querySelectorAll("#cards .card")];
  const filters = [["true", find("filter-true")], ["predicted", find("filter-predicted")]];
  const filter = () => {
    for (const card of cards) {
      card.hidden = filters.some(([key, select]) => select.value && card.dataset[key] !== select.value);
    }
    find("filter-count").textContent = `${cards.filter((card) => !card.hidden).length} shown`;
  };
  if (cards.length) {
    for (const [, select] of filters) select.addEventListener("change", filter);
    find("cards").addEventListener("click", async (event) => {
      const button = event.target.closest(".copy");
      if (!button) return;
      try {
        await navigator.clipboard.writeText(button.dataset.path);
        button.textContent = "Copied";
        find("copied").textContent = `Copied ${button.dataset.path}`;
      } catch {
        getSelection().selectAllChildren(button.parentElement.querySelector("code"));
        find("copied").textContent = "Selected; copy it with your keyboard";
      }
    });
  }
})();
