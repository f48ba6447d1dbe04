// What a browser makes of the page in each frame of a document: written, as JSON, into its title.

// "rgb(1, 2, 3)" or "rgba(1, 2, 3, 0.5)" -> red, green, blue 0..255, opacity 0..1.
function colour(text) {
  const [red, green, blue, opacity = 1] = text.match(/[\d.]+/g).map(Number);
  return [red, green, blue, opacity];
}

function over([r, g, b, a], [r0, g0, b0]) {
  return [a * r + (1 - a) * r0, a * g + (1 - a) * g0, a * b + (1 - a) * b0];
}

function background(element) {
  const own = colour(getComputedStyle(element).backgroundColor);
  const below = own[3] === 1 ? own : element.parentElement ? background(element.parentElement) : [255, 255, 255];
  return over(own, below);
}

// Web Content Accessibility Guidelines 2.2, "relative luminance" and "contrast ratio".
function luminance(rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(element) {
  const behind = background(element), style = getComputedStyle(element);
  const ink = over(colour(element.closest("svg") ? style.fill : style.color), behind);
  const [light, dark] = [luminance(ink), luminance(behind)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
}

function texts(page) {
  const found = [], walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() && element.getClientRects().length) found.push(element);
  }
  return found;
}

function look(frame) {
  const page = frame.contentDocument, root = page.documentElement, images = [...page.images];
  page.querySelectorAll("details").forEach((details) => (details.open = true));
  const least = texts(page).map((element) => [contrast(element), element.textContent.slice(0, 40)]);
  return {
    width_px: root.clientWidth,
    overflow_px: root.scrollWidth - root.clientWidth,
    images: images.length,
    undecoded: images.filter((image) => !(image.complete && image.naturalWidth)).length,
    without_alt: images.filter((image) => !image.alt).length,
    headings: [...page.querySelectorAll("h1, h2, h3")].map((heading) => heading.tagName + " " + heading.textContent),
    charts: [...page.querySelectorAll("svg[role=img]")].map((svg) => svg.getAttribute("aria-label")),
    dark: luminance(background(page.body)) < 0.2,
    least_contrast: least.sort((a, b) => a[0] - b[0])[0],
    below_px: page.body.scrollHeight,
  };
}

addEventListener("load", () => {
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(look));
});
