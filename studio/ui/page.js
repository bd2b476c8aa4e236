// The page's own behaviour: who it is, drafts, shortcuts, theme, and pictures dropped anywhere.
window.studio = (() => {
  // Named, not given: where storage is blocked, even to look at it throws.
  const read = (key, where = "localStorage") => { try { return window[where].getItem(key); } catch { return null; } };
  const write = (key, value, where = "localStorage") => { try { window[where].setItem(key, value); } catch { /* blocked, or full */ } };

  // Jobs belong to the tab that asked, so that a reload finds them.
  let owner = read("studio.owner", "sessionStorage");
  if (!owner) write("studio.owner", (owner = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("")), "sessionStorage");

  let restored = false;
  const keepDraft = (names, values) => {
    const kept = JSON.stringify(Object.fromEntries(names.map((name, i) => [name, values[i]])));
    // A reload finds what this tab had, a new tab what was typed last.
    if (restored) for (const where of ["sessionStorage", "localStorage"]) write("studio.draft", kept, where);
    return [];
  };
  const draft = async (names, values) => {
    let kept = {};
    try { kept = JSON.parse(read("studio.draft", "sessionStorage") ?? read("studio.draft")) ?? {}; } catch { /* not ours any more */ }
    // A start image lives on the server; it may be gone by now.
    if (kept.start && !(await fetch(kept.start.url).then((answer) => answer.ok, () => false))) kept.start = null;
    restored = true;
    return names.map((name, i) => (name in kept ? kept[name] : values[i]));
  };

  const say = (words) => {
    const box = document.querySelector("#prompt textarea");
    box.value = words;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    box.focus();
  };

  // Buttons inside the studio's own HTML.
  const listen = (element, tell, watch) => {
    let scrolled = 0;
    element.addEventListener("click", (click) => {
      const button = click.target.closest("[data-do]");
      if (!button) return;
      const { do: name, of, words } = button.dataset;
      if (name === "dismiss") button.parentElement.remove();
      if (name === "example") say(words);
      if (name === "older") scrolled = button.closest("ul").scrollLeft;
      if (name === "pick") {
        element.querySelector("[aria-current]")?.removeAttribute("aria-current");
        button.setAttribute("aria-current", "true");
      }
      tell(name, of);
    });
    watch("value", () => {  // older pictures come where the artist is, a new one is scrolled to
      const strip = element.querySelector(".strip");
      if (strip) strip.scrollLeft = scrolled;
      scrolled = 0;
    });
  };

  const press = (id) => document.querySelector(id)?.click();
  document.addEventListener("keydown", (key) => {
    if (key.key === "Enter" && (key.ctrlKey || key.metaKey)) { key.preventDefault(); press("#generate"); }
    if (key.key === "Escape" && !document.querySelector("ul.options")) press("#cancel");
  }, true);

  const setTheme = (dark) => { document.body.classList.toggle("dark", dark); write("studio.theme", dark ? "dark" : "light"); };
  const chosen = read("studio.theme");
  const toggleTheme = () => setTheme(!document.body.classList.contains("dark"));
  document.addEventListener("DOMContentLoaded", () => {
    if (chosen) new MutationObserver((_, observer) => {
      if (!document.querySelector("#studio")) return;
      observer.disconnect();
      setTheme(chosen === "dark");
    }).observe(document.body, { childList: true, subtree: true });
  });

  // A picture dropped anywhere else than on the start image brings its settings back, if it has any.
  const outside = (event) => event.dataTransfer?.types.includes("Files") && !event.target.closest?.("#start");
  document.addEventListener("dragover", (event) => {
    if (!outside(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    const input = document.querySelector("#settings > input[type=file]");
    if (!outside(event) || !event.dataTransfer.files.length || !input) return;
    event.preventDefault();
    const files = new DataTransfer();
    files.items.add(event.dataTransfer.files[0]);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });

  return { owner, keepDraft, draft, listen, toggleTheme };
})();
