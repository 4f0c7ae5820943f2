"use strict";
// Data come as scripts that call afterimage(name, value): a page opened from the disk may fetch nothing.

const arrivals = new Map();

function afterimage(name, value) {
  arrivals.get(name)?.(value);
}

function load(name) {
  return new Promise((resolve, reject) => {
    arrivals.set(name, resolve);
    const script = document.createElement("script");
    const [folder, number] = name.split("/");
    script.src = number === undefined ? `data/${name}.js` : `data/${folder}/${number.padStart(5, "0")}.js`;
    script.onload = () => script.remove();
    script.onerror = () => reject(new Error(`${script.src} is missing`));
    document.head.append(script);
  });
}

function numbers(text, Kind) {
  const bytes = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function named(text) {
  return element("bdi", { textContent: text });
}

function percent(share) {
  return `${(100 * share).toFixed(1)}\u202f%`;
}
