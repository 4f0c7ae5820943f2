"use strict";
// Where one looks: the middle of the stage in the view's coordinates, y downward, and CSS pixels per unit.

class Camera {
  constructor(x = 0, y = 0, scale = 1) {
    Object.assign(this, { x, y, scale });
  }

  copy() {
    return new Camera(this.x, this.y, this.scale);
  }

  fit([left, top, right, bottom], width, height) {
    const [across, down] = [Math.max(right - left, 1e-6), Math.max(bottom - top, 1e-6)];
    this.x = (left + right) / 2;
    this.y = (top + bottom) / 2;
    this.least = 0.9 * Math.min(width / across, height / down);
    this.scale = this.least;
  }

  pan(right, down) {
    this.x -= right / this.scale;
    this.y -= down / this.scale;
  }

  // right and down: of the point that stays, from the middle of the stage.
  zoom(factor, right = 0, down = 0) {
    const scale = Math.min(Math.max(this.scale * factor, this.least / 4), this.least * 20000);
    this.x += right / this.scale - right / scale;
    this.y += down / this.scale - down / scale;
    this.scale = scale;
  }
}

function bounds(x, y) {
  const found = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < x.length; i++) {
    if (x[i] < found[0]) found[0] = x[i];
    if (y[i] < found[1]) found[1] = y[i];
    if (x[i] > found[2]) found[2] = x[i];
    if (y[i] > found[3]) found[3] = y[i];
  }
  return found;
}

// Calls back with what fingers, mouse and wheel ask for.
function gestures(stage, { pan, zoom, click, hover }) {
  const fingers = new Map();
  let travelled = 0;
  const middle = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  };
  const spread = () => {
    const [one, other] = [...fingers.values()];
    return other ? Math.hypot(one[0] - other[0], one[1] - other[1]) : 0;
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button") || event.button) return;
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, middle(event));
    travelled = 0;
  });
  stage.addEventListener("pointermove", (event) => {
    const now = middle(event);
    const before = fingers.get(event.pointerId);
    if (!before) return hover(now);
    const apart = spread();
    fingers.set(event.pointerId, now);
    const [right, down] = [now[0] - before[0], now[1] - before[1]];
    travelled += Math.abs(right) + Math.abs(down);
    if (travelled > 4) pan(right / fingers.size, down / fingers.size);
    if (apart) zoom(spread() / apart, ...now);
  });
  const ended = (event) => {
    if (fingers.delete(event.pointerId) && travelled <= 4 && event.type === "pointerup") click(middle(event));
  };
  stage.addEventListener("pointerup", ended);
  stage.addEventListener("pointercancel", ended);
  stage.addEventListener("pointerleave", () => hover(null));
  stage.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode ? 30 : 1);
      zoom(2 ** (-Math.max(-300, Math.min(300, pixels)) / (event.ctrlKey ? 60 : 240)), ...middle(event));
    },
    { passive: false },
  );
}
