"use strict";
// Small pictures, cut from sheets that are parts of the grid at several scales and are loaded when they are seen.

const SHEETS = 64;

class Pictures {
  constructor(map, arrived) {
    Object.assign(this, { map, arrived, sheets: new Map() });
  }

  address(level, row, column) {
    return `sheets/${level.side}/${row}-${column}.jpg`;
  }

  // Returns the sheet, or null while it is on its way.
  sheet(level, row, column) {
    const address = this.address(level, row, column);
    let image = this.sheets.get(address);
    this.sheets.delete(address);
    if (!image) {
      image = new Image();
      image.onload = this.arrived;
      image.src = address;
    }
    this.sheets.set(address, image); // the last that goes when there are too many
    if (this.sheets.size > SHEETS) this.sheets.delete(this.sheets.keys().next().value);
    return image.complete && image.naturalWidth ? image : null;
  }

  // Draws a point's picture with its middle at x, y; returns whether it was there.
  draw(context, point, x, y, size) {
    const level = this.map.levels[0];
    const [row, column] = [this.map.row[point], this.map.column[point]];
    const image = this.sheet(level, Math.floor(row / level.cells), Math.floor(column / level.cells));
    if (!image) return false;
    const [left, top] = [(column % level.cells) * level.side, (row % level.cells) * level.side];
    context.drawImage(image, left, top, level.side, level.side, x - size / 2, y - size / 2, size, size);
    return true;
  }

  // Shows a point's picture as an element's background.
  dress(box, point, size) {
    const level = this.map.levels[0];
    const [row, column] = [this.map.row[point], this.map.column[point]];
    const [down, right] = [Math.floor(row / level.cells), Math.floor(column / level.cells)];
    const across = Math.min(level.cells, this.map.columns - right * level.cells);
    box.style.backgroundImage = `url("${this.address(level, down, right)}")`;
    box.style.backgroundSize = `${across * size}px auto`;
    box.style.backgroundPosition = `${-(column % level.cells) * size}px ${-(row % level.cells) * size}px`;
  }

  // Draws the part of the grid that is seen; cell: CSS pixels of a cell; left, top: where the grid begins.
  drawGrid(context, cell, left, top, width, height, density) {
    const { levels, rows, columns } = this.map;
    const whole = (value) => Math.round(value * density) / density; // else seams show between sheets
    let finest = levels.length - 1;
    while (finest && levels[finest].side < cell * density) finest--;
    for (let number = levels.length - 1; number >= finest; number--) {
      const level = levels[number];
      const side = cell * level.cells;
      const seen = (start, extent, count) => [
        Math.max(0, Math.floor(-start / side)),
        Math.min(Math.ceil(count / level.cells), Math.ceil((extent - start) / side)),
      ];
      const [[top0, top1], [left0, left1]] = [seen(top, height, rows), seen(left, width, columns)];
      if ((top1 - top0) * (left1 - left0) > SHEETS / 2) continue;
      for (let row = top0; row < top1; row++) {
        for (let column = left0; column < left1; column++) {
          const image = this.sheet(level, row, column);
          if (!image) continue;
          const [x0, y0] = [whole(left + column * side), whole(top + row * side)];
          const [x1, y1] = [whole(left + column * side + (image.naturalWidth * cell) / level.side), whole(top + row * side + (image.naturalHeight * cell) / level.side)];
          context.drawImage(image, x0, y0, x1 - x0, y1 - y0);
        }
      }
    }
  }
}
