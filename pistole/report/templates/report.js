"use strict";
// Sorts and filters tables, finds rows in charts, shows what traces a number. Without it the page
// is complete: it only moves and hides what is there.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  for (const element of all(".js[hidden]")) element.hidden = false;

  // Tables: press a column's head.
  const sort = (head, descending) => {
    const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
    const isText = head.dataset.sort === "text";
    const value = (row) => {
      const cell = row.cells[place];
      return isText ? cell.textContent : cell.dataset.v === undefined ? NaN : Number(cell.dataset.v);
    };
    const rows = [...body.rows].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (isText) return descending ? b.localeCompare(a) : a.localeCompare(b);
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return descending ? b - a : a - b;
    });
    body.append(...rows);
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  };
  for (const head of all("table.sortable th[data-sort]")) {
    const button = make("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      sort(head, before ? before === "ascending" : head.dataset.sort === "number");
    });
  }

  // Rows: by kind and name, in tables and charts; single rows also by their chip, in charts.
  const filter = document.querySelector("form.filter"), hidden = new Set();
  const rows = all("table.sortable tr[data-name], .chart .m, .chip");
  const show = () => {
    const kinds = new Set(all("[name=family]:checked", filter).map((box) => box.value));
    const wanted = filter.elements.text.value.trim().toLowerCase();
    const labels = new Map(all(".chip").map((chip) => [chip.dataset.name, chip.textContent]));
    const fits = ({ name, family }) =>
      kinds.has(family) && `${labels.get(name)} ${name}`.toLowerCase().includes(wanted);
    for (const row of rows) {
      const off = !fits(row.dataset) || (row.matches(".m") && hidden.has(row.dataset.name));
      if (row.matches(".m")) row.style.display = off ? "none" : "";
      else row.hidden = off;
    }
    const shown = all("table.methods tbody tr");
    const left = shown.filter((row) => !row.hidden).length;
    filter.querySelector("output").value = `${left} of ${shown.length} rows`;
  };
  filter.addEventListener("input", show);
  filter.addEventListener("submit", (event) => event.preventDefault());

  // Charts: find a row, hide it.
  const point = (name) => {
    for (const chart of all(".chart svg")) {
      const found = all(".m", chart).filter((row) => row.dataset.name === name);
      chart.classList.toggle("pointed", found.length > 0);
      for (const row of all(".m", chart)) row.classList.toggle("on", found.includes(row));
    }
  };
  for (const item of all("li.chip")) {
    const name = item.dataset.name;
    const button = make("button", { type: "button" }, ...item.childNodes);
    button.setAttribute("aria-pressed", "true");
    item.replaceChildren(button);
    item.style.padding = "0";
    button.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      show();
    });
    for (const kind of ["pointerenter", "focus"]) button.addEventListener(kind, () => point(name));
    for (const kind of ["pointerleave", "blur"]) button.addEventListener(kind, () => point(null));
  }
  for (const row of all("table.methods tbody tr")) {
    row.addEventListener("pointerenter", () => point(row.dataset.name));
    row.addEventListener("pointerleave", () => point(null));
  }
  const tip = make("div", { id: "tip", hidden: true });
  tip.setAttribute("role", "status");
  document.body.append(tip);
  for (const title of all(".chart .mark > title")) {
    const mark = title.parentElement, told = title.textContent;
    title.remove(); // else the browser's own tip comes too
    mark.dataset.tip = told;
    mark.addEventListener("pointerenter", () => {
      const box = mark.getBoundingClientRect();
      tip.textContent = told;
      tip.hidden = false;
      const widest = document.documentElement.clientWidth - tip.offsetWidth - 8;
      tip.style.left = `${Math.max(8, Math.min(box.right + 8, widest)) + scrollX}px`;
      tip.style.top = `${Math.max(8, box.top - tip.offsetHeight - 8) + scrollY}px`;
      point(mark.closest(".m").dataset.name);
    });
    mark.addEventListener("pointerleave", () => {
      tip.hidden = true;
      point(null);
    });
  }

  // Lineage: the command of a number, and copies of commands.
  const copy = async (text, button) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  const copier = (text) => {
    const button = make("button", { type: "button", className: "copy" }, "Copy");
    button.addEventListener("click", () => copy(text(), button));
    return button;
  };
  for (const code of all(".command")) code.after(copier(() => code.textContent));
  const line = make("code"), close = make("button", { type: "button" }, "Close");
  const bar = make("div", { id: "trace", hidden: true }, line, copier(() => line.textContent), close);
  document.body.append(bar);
  close.addEventListener("click", () => (bar.hidden = true));
  for (const cell of all("[data-k]")) {
    cell.classList.add("traceable");
    cell.addEventListener("click", () => {
      const key = `report/metrics.json:${cell.dataset.k}`;
      line.textContent = `pistole trace ${/^[\w@%+=:,./-]+$/.test(key) ? key : `'${key}'`}`;
      bar.hidden = false;
    });
  }

  // Gallery.
  const samples = all(".sample"), tasks = document.querySelector("select.tasks");
  tasks?.addEventListener("change", () => {
    for (const s of samples) s.hidden = tasks.value !== "" && s.dataset.task !== tasks.value;
  });
  const opener = document.querySelector(".open-all");
  opener?.addEventListener("click", () => {
    const open = opener.textContent === "Open all";
    for (const sample of samples) sample.open = open;
    opener.textContent = open ? "Close all" : "Open all";
  });
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = samples.filter((sample) => !sample.open);
    for (const sample of closed) sample.open = true;
  });
  addEventListener("afterprint", () => {
    for (const sample of closed) sample.open = false;
  });
})();
