"use strict";
// What lies over the points: pictures where there is room, the grid's cells, the chosen image and its neighbors.

const CROWD = 2000; // points in sight beyond which no pictures are shown

// Pictures of points in sight, none over another; a point keeps its picture as long as its place does.
function drawThumbnails(page) {
  const { map, camera, context, filters } = page;
  const { x, y } = page.views[page.view];
  const [across, down] = [(page.width / 2 + MARGIN) / camera.scale, (page.height / 2 + MARGIN) / camera.scale];
  const seen = [];
  page.thumbnails = [];
  for (let i = 0; i < map.count; i++) {
    if (filters.visible[i] && Math.abs(x[i] - camera.x) < across && Math.abs(y[i] - camera.y) < down) {
      if (seen.push(i) > CROWD) return;
    }
  }
  const room = Math.sqrt((page.width * page.height) / Math.max(seen.length, 1));
  const size = Math.round(Math.min(72, Math.max(24, 0.6 * room)));
  const taken = new Set();
  for (const point of seen) {
    const [left, top] = page.place(point);
    const [column, row] = [Math.floor(left / size), Math.floor(top / size)];
    const near = [-1, 0, 1].flatMap((dy) => [-1, 0, 1].map((dx) => `${column + dx},${row + dy}`));
    const close = near.some((one) => taken.has(one) && page.thumbnails.some((other) => other.bin === one && Math.abs(other.left - left) < size && Math.abs(other.top - top) < size));
    if (close || !page.pictures.draw(context, point, left, top, size)) continue;
    taken.add(`${column},${row}`);
    page.thumbnails.push({ point, left, top, bin: `${column},${row}`, x: x[point], y: y[point], size });
    context.strokeStyle = filters.color(point);
    context.lineWidth = 2;
    context.strokeRect(left - size / 2, top - size / 2, size, size);
  }
}

function drawCells(page) {
  const { map, camera, context } = page;
  const [left, top] = [page.width / 2 + MARGIN - camera.x * camera.scale, page.height / 2 + MARGIN - camera.y * camera.scale];
  page.pictures.drawGrid(context, camera.scale, left, top, page.width + 2 * MARGIN, page.height + 2 * MARGIN, page.density);
  page.mask ??= veil(page);
  context.imageSmoothingEnabled = false;
  const [x, y] = [Math.floor(left), Math.floor(top)];
  context.drawImage(page.mask, x, y, Math.ceil(left + map.columns * camera.scale) - x, Math.ceil(top + map.rows * camera.scale) - y);
  context.imageSmoothingEnabled = true;
}

// A pixel per cell: the page's color over empty cells, and thinly over those that the filters leave out.
function veil({ map, filters }) {
  const canvas = element("canvas", { width: map.columns, height: map.rows });
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(document.body).backgroundColor;
  context.fillRect(0, 0, map.columns, map.rows);
  const image = context.getImageData(0, 0, map.columns, map.rows);
  for (let i = 0; i < map.count; i++) image.data[4 * (map.row[i] * map.columns + map.column[i]) + 3] = filters.visible[i] ? 0 : 215;
  context.putImageData(image, 0, 0);
  return canvas;
}

function drawChosen(page) {
  const { context, point, row } = page;
  if (point === null) return;
  const side = page.view === "grid" ? page.camera.scale : null;
  const [left, top] = page.place(point);
  const ink = getComputedStyle(document.body).color;
  context.strokeStyle = ink;
  for (const near of row?.neighbors ?? []) {
    const [x, y] = page.place(near);
    context.globalAlpha = 0.55;
    context.lineWidth = 1;
    context.beginPath();
    if (side) context.rect(x - side / 2, y - side / 2, side, side);
    else {
      context.moveTo(left, top);
      context.lineTo(x, y);
      context.moveTo(x + 6, y);
      context.arc(x, y, 6, 0, 7);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
  const size = side ?? page.thumbnails?.find((one) => one.point === point)?.size;
  for (const [width, color] of [[6, getComputedStyle(document.body).backgroundColor], [3, ink]]) {
    context.lineWidth = width;
    context.strokeStyle = color;
    context.beginPath();
    if (size) context.rect(left - size / 2, top - size / 2, size, size);
    else context.arc(left, top, 9, 0, 7);
    context.stroke();
  }
}
