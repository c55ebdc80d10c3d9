//! Each recipe on small matrices whose values say where they came from.

use super::*;
use crate::weights::tensor::DType;

fn tensor(name: &str, dtype: DType, shape: &[usize], data: Vec<u8>) -> Tensor {
    Tensor {
        name: name.into(),
        dtype,
        shape: shape.into(),
        data: Bytes::made(data),
        file: Path::new("m").into(),
    }
}

/// Values 0, 1, 2, … in F32.
fn counting(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    let data = (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect();
    tensor("w", DType::Weights(Format::F32), shape, data)
}

fn values(matrix: &Matrix) -> Vec<Vec<f32>> {
    (0..matrix.rows()).map(|r| matrix.row_values(r)).collect()
}

fn says<T: std::fmt::Debug>(result: Result<T>, words: &str) {
    let message = result.unwrap_err().to_string();
    assert!(message.starts_with("m: tensor '"), "{message}");
    assert!(message.contains(words), "{message:?} does not say {words:?}");
}

#[test]
fn views_share_the_files_bytes() {
    let whole = Matrix::whole(&counting(&[4, 2])).unwrap();
    assert_eq!(values(&whole), [[0., 1.], [2., 3.], [4., 5.], [6., 7.]]);
    assert_eq!(values(&whole.rows_in(1..3).unwrap()), [[2., 3.], [4., 5.]]);
    let odd = whole.every_second(1).unwrap();
    assert_eq!(values(&odd), [[2., 3.], [6., 7.]]);
    assert_eq!((odd.row_stride(), odd.row_bytes(), odd.bytes()), (16, 8, 16));
    assert_eq!(odd.data().as_ptr(), whole.row(1).as_ptr());
    // Views of views.
    assert_eq!(values(&odd.rows_in(1..2).unwrap()), [[6., 7.]]);
    let three = Matrix::whole(&counting(&[3, 1])).unwrap();
    assert_eq!(values(&three.every_second(0).unwrap()), [[0.], [2.]]);
    assert_eq!(values(&three.every_second(1).unwrap()), [[1.]]);
    let expert = Matrix::expert(&counting(&[3, 2, 2]), 2).unwrap();
    assert_eq!(values(&expert), [[8., 9.], [10., 11.]]);
    // Dimensions of size 1 may have been dropped: a stack of one expert, a matrix of one row.
    let only = Matrix::expert(&counting(&[2, 2]), 0).unwrap();
    assert_eq!(values(&only), [[0., 1.], [2., 3.]]);
    assert_eq!(values(&Matrix::whole(&counting(&[3])).unwrap()), [[0., 1., 2.]]);
}

#[test]
fn rows_and_columns_change_places() {
    let whole = Matrix::whole(&counting(&[2, 3])).unwrap();
    let turned = whole.transposed().unwrap();
    assert_eq!((turned.rows(), turned.cols(), turned.format()), (3, 2, Format::F32));
    assert_eq!(values(&turned), [[0., 3.], [1., 4.], [2., 5.]]);
    // Of a view, too; and gpt-oss's float experts are turned first, then taken apart.
    let part = Matrix::whole(&counting(&[4, 2])).unwrap().every_second(1).unwrap();
    assert_eq!(values(&part.transposed().unwrap()), [[2., 6.], [3., 7.]]);
    let up = turned.every_second(1).unwrap();
    assert_eq!(values(&up), [[1., 4.]]);
    // Two-byte elements stay what they are.
    let half = tensor("h", DType::Weights(Format::BF16), &[2, 2], (0..8).collect());
    let half = Matrix::whole(&half).unwrap().transposed().unwrap();
    assert_eq!((half.format(), &half.data()[..]), (Format::BF16, &[0, 1, 4, 5, 2, 3, 6, 7][..]));
    // Blocks do not survive turning: the values do.
    let block = |first: u8| [0x00, 0x3c].into_iter().chain(first..first + 32);
    let data: Vec<u8> = block(0).chain(block(50)).collect();
    let blocks = tensor("q", DType::Weights(Format::Q8_0), &[2, 32], data);
    let turned = Matrix::whole(&blocks).unwrap().transposed().unwrap();
    assert_eq!((turned.format(), turned.rows(), turned.cols()), (Format::F32, 32, 2));
    assert_eq!(values(&turned)[31], [31., 81.]);
}

#[test]
fn rows_are_gathered() {
    let whole = Matrix::whole(&counting(&[3, 2])).unwrap();
    let gathered = whole.gather_rows(&[2, 0, 0]).unwrap();
    assert_eq!(values(&gathered), [[4., 5.], [0., 1.], [0., 1.]]);
    says(whole.gather_rows(&[0, 3]), "row 3 is asked for, it has 3");
    says(whole.gather_rows(&[]), "no matrix of 0 rows");
}

#[test]
fn block_scales_follow_the_rows() {
    // 5 x 3 ones in blocks of 2 x 2: three blocks down, two across.
    let weight = tensor("w", DType::Weights(Format::F8E4M3), &[5, 3], vec![0x38; 15]);
    let scales = counting(&[3, 2]);
    let whole = Matrix::block_scaled(&weight, &scales, [2, 2]).unwrap();
    let expected = [[0., 0., 1.], [0., 0., 1.], [2., 2., 3.], [2., 2., 3.], [4., 4., 5.]];
    assert_eq!(values(&whole), expected);
    assert_eq!(values(&whole.rows_in(1..3).unwrap()), [expected[1], expected[2]]);
    let odd = whole.rows_in(1..5).unwrap().every_second(1).unwrap();
    assert_eq!(values(&odd), [expected[2], expected[4]]);
    let gathered = odd.gather_rows(&[1, 0, 1]).unwrap();
    assert_eq!(values(&gathered), [expected[4], expected[2], expected[4]]);
    assert_eq!(gathered.format(), Format::F8E4M3);
    let turned = whole.transposed().unwrap();
    assert_eq!(values(&turned)[2], [1., 1., 3., 3., 5.]);
    assert!(turned.scales().is_none());
    says(Matrix::block_scaled(&weight, &scales, [2, 0]), "has no size");
    says(Matrix::block_scaled(&weight, &scales, [4, 2]), "expected shape [2, 2], found [3, 2]");
    says(Matrix::block_scaled(&scales, &scales, [2, 2]), "expected F8_E4M3, found F32");
    says(Matrix::block_scaled(&weight, &weight, [2, 2]), "expected scales in F32");
}

#[test]
fn mxfp4_is_repacked_without_loss() {
    // Two experts of 3 x 64. Weight i of a row has code (i + row + expert) % 16.
    let code = |e: usize, r: usize, i: usize| ((i + r + e) % 16) as u8;
    let (mut packed, mut exponents) = (Vec::new(), Vec::new());
    for e in 0..2 {
        for r in 0..3 {
            for pair in 0..32 {
                packed.push(code(e, r, 2 * pair) | code(e, r, 2 * pair + 1) << 4);
            }
            exponents.extend([100 + (e * 10 + r * 2) as u8, 101 + (e * 10 + r * 2) as u8]);
        }
    }
    let blocks = tensor("b", DType::U8, &[2, 3, 2, 16], packed);
    let scales = tensor("s", DType::U8, &[2, 3, 2], exponents);
    for e in 0..2 {
        let matrix = Matrix::mxfp4_expert(&blocks, &scales, e).unwrap();
        assert_eq!((matrix.rows(), matrix.cols(), matrix.format()), (3, 64, Format::MXFP4));
        for r in 0..3 {
            for (b, block) in matrix.row(r).chunks(17).enumerate() {
                assert_eq!(block[0], (100 + e * 10 + r * 2 + b) as u8);
                for i in 0..32 {
                    let found = block[1 + i % 16] >> (4 * (i / 16)) & 15;
                    assert_eq!(found, code(e, r, 32 * b + i));
                }
            }
        }
        assert_eq!(matrix.every_second(1).unwrap().row(0), matrix.row(1));
        assert_eq!(matrix.every_second(0).unwrap().rows_in(1..2).unwrap().row(0), matrix.row(2));
        // Panels are those of the same rows made at once.
        for matrix in [matrix.clone(), matrix.every_second(0).unwrap()] {
            let rows: Vec<usize> = (0..matrix.rows()).collect();
            let made = matrix.gather_rows(&rows).unwrap();
            let pack = |matrix: &Matrix| {
                let mut out = vec![0xee; matrix.panel_bytes()];
                matrix.pack(0..1, &mut out);
                out
            };
            assert!(pack(&matrix) == pack(&made));
            assert_eq!((matrix.bytes(), values(&matrix)), (made.bytes(), values(&made)));
        }
    }
    says(Matrix::mxfp4_expert(&blocks, &scales, 2), "holds 2 experts, number 2");
    says(Matrix::mxfp4_expert(&scales, &scales, 0), "expected [experts, rows, cols/32, 16]");
    says(
        Matrix::mxfp4_expert(&blocks, &blocks, 0),
        "expected shape [2, 3, 2], found [2, 3, 2, 16]",
    );
    let floats = tensor("f", DType::Weights(Format::F8E4M3), &[2, 3, 2], vec![0; 12]);
    says(Matrix::mxfp4_expert(&blocks, &floats, 0), "expected U8, found F8_E4M3");
    // Sizes that only a tensor without data can claim.
    let huge = tensor("h", DType::U8, &[1, 0, 1 << 60, 16], vec![]);
    let none = tensor("n", DType::U8, &[1, 0, 1 << 60], vec![]);
    says(Matrix::mxfp4_expert(&huge, &none, 0), "beyond any memory");
}

#[test]
fn what_does_not_fit_is_named() {
    says(Matrix::whole(&counting(&[2, 2, 2])), "expected a matrix, found shape [2, 2, 2]");
    says(Matrix::expert(&counting(&[2]), 0), "expected [experts, rows, cols]");
    says(Matrix::expert(&counting(&[2, 2]), 1), "holds 1 experts, number 1");
    says(Matrix::expert(&counting(&[2, 2, 2]), 2), "holds 2 experts, number 2");
    let whole = Matrix::whole(&counting(&[4, 2])).unwrap();
    says(whole.clone().expect(2, 4), "expected a matrix of shape [2, 4], found [4, 2]");
    says(whole.rows_in(3..5), "rows 3..5 of its 4 rows");
    says(whole.rows_in(2..2), "there are none");
    says(whole.rows_in(usize::MAX - 1..usize::MAX), "there are none");
    says(whole.rows_in(0..1).unwrap().every_second(1), "there are none");
    says(vector(&counting(&[2, 2]), 4), "expected shape [4], found [2, 2]");
    says(vector(&counting(&[3]), 4), "expected shape [4], found [3]");
    assert_eq!(vector(&counting(&[3]), 3).unwrap(), [0., 1., 2.]);
    let integers = tensor("i", DType::Other("I64"), &[1], vec![0; 8]);
    says(vector(&integers, 1), "holds I64, which are not weights");
}
