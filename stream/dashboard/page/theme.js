// Before the first paint, so that nobody is dazzled: the theme chosen here, else the system's.
(() => {
  const asked = matchMedia("(prefers-color-scheme: dark)");
  const show = () => {
    document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (asked.matches ? "dark" : "light");
  };
  asked.addEventListener("change", show);
  show();
})();
