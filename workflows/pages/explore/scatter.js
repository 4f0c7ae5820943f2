"use strict";
// All points at once, by WebGL: those that the filters leave out are faint and lie below.

const VERTEX = `
attribute vec2 position;
attribute vec4 color;
uniform vec2 middle, zoom;
uniform mediump float size;
uniform float faint;
varying vec4 shade;
void main() {
  gl_Position = vec4((position - middle) * zoom, 0, 1);
  gl_PointSize = size;
  shade = faint > 0.0 ? vec4(0.5, 0.52, 0.55, faint) : color;
}`;
const FRAGMENT = `
precision mediump float;
uniform float size;
varying vec4 shade;
void main() {
  float inside = 0.5 * size - distance(gl_PointCoord, vec2(0.5)) * size;
  float alpha = shade.a * clamp(inside + 0.5, 0.0, 1.0);
  gl_FragColor = vec4(shade.rgb * alpha, alpha);
}`;

class Scatter {
  // Returns null where there is no WebGL.
  static on(canvas) {
    const gl = canvas.getContext("webgl", { antialias: false, depth: false });
    return gl && new Scatter(gl);
  }

  constructor(gl) {
    this.gl = gl;
    this.program = twgl.createProgramInfo(gl, [VERTEX, FRAGMENT]);
    this.arrays = { position: gl.createBuffer(), color: gl.createBuffer(), bright: gl.createBuffer(), faint: gl.createBuffer() };
    this.counts = { bright: 0, faint: 0 };
    gl.getExtension("OES_element_index_uint");
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  _fill(name, values, target = this.gl.ARRAY_BUFFER) {
    this.gl.bindBuffer(target, this.arrays[name]);
    this.gl.bufferData(target, values, this.gl.STATIC_DRAW);
  }

  place({ x, y }) {
    const both = new Float32Array(2 * x.length);
    for (let i = 0; i < x.length; i++) {
      both[2 * i] = x[i];
      both[2 * i + 1] = y[i];
    }
    this._fill("position", both);
  }

  // colors: four bytes per point; visible: a byte per point.
  paint(colors, visible) {
    this._fill("color", colors);
    const found = { bright: [], faint: [] };
    for (let i = 0; i < visible.length; i++) (visible[i] ? found.bright : found.faint).push(i);
    for (const [name, places] of Object.entries(found)) {
      this._fill(name, new Uint32Array(places), this.gl.ELEMENT_ARRAY_BUFFER);
      this.counts[name] = places.length;
    }
  }

  // size: of a point in CSS pixels.
  draw(camera, size, density) {
    const { gl, arrays } = this;
    const { width, height } = gl.canvas;
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.program.program);
    twgl.setBuffersAndAttributes(gl, this.program, {
      attribs: {
        position: { buffer: arrays.position, numComponents: 2, type: gl.FLOAT },
        color: { buffer: arrays.color, numComponents: 4, type: gl.UNSIGNED_BYTE, normalize: true },
      },
    });
    const scale = 2 * density * camera.scale;
    const shared = { middle: [camera.x, camera.y], zoom: [scale / width, -scale / height], size: size * density };
    for (const [name, faint] of [["faint", 0.22], ["bright", 0]]) {
      twgl.setUniforms(this.program, { ...shared, faint });
      gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, arrays[name]);
      gl.drawElements(gl.POINTS, this.counts[name], gl.UNSIGNED_INT, 0);
    }
  }
}
